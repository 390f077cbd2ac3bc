"""Which rank holds up the others is told by name, and before their collective operations give up."""

from __future__ import annotations

from agenttune.detectors import detect
from agenttune.protocol.findings import Finding
from agenttune.protocol.rank_reads import Place, RanksRead
from tests.policy.conftest import observe


def read(
    steps: list[int] | None = None,
    places: list[Place] | None = None,
    data: list[float] | None = None,
    heard: list[float] | None = None,
    stands: list[float] | None = None,
    limit: float | None = 600.0,
) -> RanksRead:
    return RanksRead(
        steps=steps or [50] * 4,
        places=places or ["backward"] * 4,
        step_time_s=[0.5] * 4,
        data_wait_s=data or [0.01] * 4,
        forward_s=[0.1] * 4,
        memory_bytes=[1] * 4,
        heard_s=heard or [0.5] * 4,
        stands_s=stands or [0.1] * 4,
        interval_s=1.0,
        limit_s=limit,
    )


def found(*reads: RanksRead, status: str = "running") -> list[Finding]:
    observation = observe([1.0] * 60).model_copy(update={"ranks": list(reads), "status": status})
    return [f for f in detect(observation) if f.kind in ("straggler", "silent_rank")]


def test_ranks_alike_are_nothing_to_tell() -> None:
    assert found(read(), read(), read()) == []
    assert found() == []


def test_a_slow_rank_is_named_with_what_it_spends_its_time_on() -> None:
    slow = read(data=[0.01, 0.3, 0.01, 0.01])
    assert found(read(), read(), slow) == [], "once may be the first batch of an epoch"
    (told,) = found(read(), slow, slow)
    assert (told.kind, told.evidence["rank"]) == ("straggler", 1)
    assert "rank 1 holds up the others" in told.summary
    assert "data 0.3 s" in told.summary


def test_what_is_nothing_beside_the_step_is_no_straggler() -> None:
    slight = read(data=[0.0, 0.04, 0.0, 0.0])
    assert found(slight, slight) == []


def test_a_rank_whose_process_is_gone_or_frozen_is_named() -> None:
    (told,) = found(read(heard=[0.5, 0.5, 0.5, 7.0]))
    assert (told.kind, told.severity, told.evidence["rank"]) == ("silent_rank", "critical", 3)
    assert "no sign of life" in told.summary
    assert "give up after 600 s" in told.summary
    assert found(read(heard=[0.5, 0.5, 0.5, 7.0]), status="paused") == []


def test_a_rank_that_stands_behind_the_others_is_named_before_they_give_up() -> None:
    places: list[Place] = ["backward", "backward", "data", "backward"]
    (told,) = found(read(places=places, stands=[31.0] * 4))
    assert told.evidence["rank"] == 2
    assert "between two steps (its data, or the script)" in told.summary
    (early,) = found(read(places=places, stands=[6.0] * 4, limit=10.0))
    assert early.evidence["rank"] == 2, "half of the time that collective operations wait"
    assert found(read(places=places, stands=[6.0] * 4)) == []
    assert found(read(places=places, stands=[31.0, 31.0, 0.2, 31.0])) == [], "it gets on"
    (behind,) = found(read(steps=[51, 50, 51, 51], places=["backward"] * 4, stands=[31.0] * 4))
    assert behind.evidence["rank"] == 1
    assert found(read(stands=[500.0] * 4)) == [], "all stand at one place: which of them is stuck is not known"


def test_a_rank_that_has_ended_is_not_missed() -> None:
    places: list[Place] = ["ended", "backward", "backward", "backward"]
    assert found(read(places=places, heard=[9.0, 0.5, 0.5, 0.5])) == []
