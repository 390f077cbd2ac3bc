"""Looking ahead proposes one probe at a time, and seldom where nothing comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agenttune.errors import ConfigError
from agenttune.policy.base import Decision
from agenttune.policy.load import load_policy
from agenttune.protocol.commands import Probe
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse, Track
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack, Change, CommandRecord, Proposal, State
from agenttune.protocol.run_info import KnobState
from tests.policy.conftest import AGENT, observe

RATE = KnobState(name="lr", base=1e-3, effective=5e-4)


def at(step: int, *commands: CommandRecord, knob: KnobState = RATE, **given: Any) -> Observation:
    seen = observe([1.0] * step, commands=commands, max_steps=10_000, **given)
    return seen.model_copy(update={"capabilities": ["probe", "update_optimizer"], "knobs": [knob]})


def probed(step: int, adopted: bool, state: State = State.APPLIED) -> CommandRecord:
    command = Probe.model_validate(Probe.example)
    changes = [Change(name="lr", previous=1.0, requested=2.0, effective=2.0)] if adopted else []
    ack = Ack(outcome="applied" if state is State.APPLIED else "failed", step=step, changes=changes)
    answer = None if state in (State.QUEUED, State.PROPOSED, State.REJECTED) else ack
    proposal = Proposal(command=command, author=AGENT, based_on_step=step)
    return CommandRecord(proposal=proposal, state=state, ack=answer, submitted_seq=step, submitted_step=step)


BY_TIME = str(Path(__file__).parents[1] / "data" / "before" / "2026-11-27" / "policies" / "lookahead.yaml")
"""As it was shipped once: every 200 steps, whatever is found."""


def decide(observation: Observation, name: str = BY_TIME) -> Decision:
    return load_policy(name).decide(observation)


def asked(observation: Observation, name: str = BY_TIME) -> Probe | None:
    drafts = decide(observation, name).proposals
    if not drafts:
        return None
    (draft,) = drafts
    assert isinstance(draft.command, Probe)
    return draft.command


def test_it_tries_the_base_rate_times_its_factors_and_says_what_that_costs() -> None:
    (draft,) = decide(at(50)).proposals
    assert isinstance(draft.command, Probe)
    assert [c.arguments()["lr"] for c in draft.command.candidates] == pytest.approx([3e-4, 3e-3])
    assert {c.arguments()["lr_sets"] for c in draft.command.candidates} == {"base"}
    assert draft.command.include_current
    assert "30 extra steps" in draft.rationale


def test_it_waits_for_its_time_and_twice_as_long_from_the_second_probe_in_vain_on() -> None:
    assert asked(at(49)) is None
    assert asked(at(249, probed(50, adopted=True))) is None
    assert asked(at(250, probed(50, adopted=True))) is not None
    assert asked(at(249, probed(50, adopted=False))) is None
    assert asked(at(250, probed(50, adopted=False))) is not None
    assert asked(at(499, probed(50, adopted=False), probed(100, adopted=False))) is None
    assert asked(at(500, probed(50, adopted=False), probed(100, adopted=False))) is not None
    vain = [probed(step, adopted=False) for step in range(10, 410, 50)]
    assert asked(at(360 + 1599, *vain)) is None
    assert asked(at(360 + 1600, *vain)) is not None
    assert asked(at(560, *vain[:7], probed(360, adopted=True))) is not None


def test_a_refused_probe_counts_as_one_in_vain() -> None:
    pair = probed(10, adopted=False), probed(50, False, State.REJECTED)
    assert asked(at(449, *pair)) is None
    assert asked(at(450, *pair)) is not None


def test_a_plateau_is_not_waited_for_but_probes_keep_their_distance() -> None:
    flat = finding("plateau", 120)
    assert asked(at(130, probed(50, adopted=False), findings=[flat])) is not None
    assert asked(at(130, probed(90, adopted=False), findings=[flat])) is None
    assert asked(at(300, probed(130, adopted=False), findings=[flat])) is None, "it has looked since"


@pytest.mark.parametrize("state", [State.QUEUED, State.PROPOSED])
def test_one_at_a_time(state: State) -> None:
    assert decide(at(5000, probed(50, False, state))).reason == "a probe is under way"


@pytest.mark.parametrize(
    ("observation", "reason"),
    [
        (at(50).model_copy(update={"capabilities": ["update_optimizer"]}), "this trainer cannot go back"),
        (at(50, knob=KnobState(name="lr", effective=0.0)), "only a value above 0"),
        (at(50, knob=KnobState(name="eps", effective=1.0)), "no knob 'lr' in this run; knobs: eps"),
        (at(50).model_copy(update={"max_steps": 70}), "too near to the run's end"),
        (at(50, knob=KnobState(name="lr", effective=1.0, minimum=0.9, maximum=1.1)), "within its bounds"),
    ],
)
def test_where_nothing_can_be_tried_it_says_why(observation: Observation, reason: str) -> None:
    decision = decide(observation)
    assert decision.proposals == []
    assert reason in decision.reason


def test_any_knob_can_be_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "smooth.yaml"
    path.write_text("type: lookahead\nknob: smoothing\nfactors: [3]\nmaximum: 0.5\nfirst_step: 1\n", encoding="utf-8")
    command = asked(at(10, knob=KnobState(name="smoothing", effective=0.1)), str(path))
    assert command is not None
    assert command.candidates[0].arguments() == {"name": "smoothing", "value": pytest.approx(0.3)}
    assert asked(at(10, knob=KnobState(name="smoothing", effective=0.2)), str(path)) is None


def test_what_redefines_the_training_loss_is_compared_by_the_goal_where_the_file_says_so(tmp_path: Path) -> None:
    path, text = tmp_path / "smooth.yaml", "type: lookahead\nknob: smoothing\nfactors: [3]\nfirst_step: 1\n"
    seen = at(10, knob=KnobState(name="smoothing", effective=0.1, redefines="training"))
    path.write_text(text, encoding="utf-8")
    assert (
        "another meaning, so that trials cannot be compared by it; set metric: goal" in decide(seen, str(path)).reason
    )
    path.write_text(f"{text}metric: goal\n", encoding="utf-8")
    command = asked(seen, str(path))
    assert command is not None
    assert command.metric == "goal"
    every = at(10, knob=KnobState(name="smoothing", effective=0.1, redefines="every_loss"))
    assert decide(every, str(path)).reason.endswith("cannot be compared by it")


def test_a_factor_of_one_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("type: lookahead\nfactors: [1.0]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none\.yaml:2: factors: factors are above 0 and not 1"):
        load_policy(str(path))


SEARCH = """type: lookahead
factors: [0.1, 10]
narrow_factors: [0.5, 2]
steps: 1%
confirm_steps: 2%
lower_rates: growing
first_step: 5%
rest_steps: 2%
every_steps: 20%
max_every_steps: 50%
"""


def told(record: CommandRecord, factors: str) -> CommandRecord:
    """As lookahead's own: its reason says what it tried."""
    said = record.proposal.model_copy(update={"rationale": f"step: tries lr times {factors}, 30 extra steps"})
    return record.model_copy(update={"proposal": said})


def tried_factors(observation: Observation, path: Path) -> list[float] | None:
    command = asked(observation, str(path))
    return None if command is None else [round(c.arguments()["lr"] / 1e-3, 6) for c in command.candidates]


def test_a_search_goes_from_wide_to_narrow_and_then_rests_in_parts_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(SEARCH, encoding="utf-8")
    first = asked(at(500), str(path))
    assert first is not None
    assert (first.steps, first.confirm_steps, first.lower_rates, first.extra_steps) == (100, 200, "growing", 700)
    assert asked(at(499), str(path)) is None
    won, vain = told(probed(500, True), "0.1, 10"), told(probed(700, False), "0.1, 10")
    assert tried_factors(at(699, won), path) is None
    assert tried_factors(at(700, won), path) == [0.1, 10], "what won may be tenfold too low still"
    assert tried_factors(at(900, won, vain), path) == [0.5, 2]
    narrow = told(probed(900, False), "0.5, 2")
    assert tried_factors(at(2899, won, vain, narrow), path) is None
    assert tried_factors(at(2900, won, vain, narrow), path) == [0.5, 2]
    flat = finding("plateau", 1200)
    assert tried_factors(at(1300, won, vain, narrow, findings=[flat]), path) == [0.1, 10]
    assert "not known" in decide(at(500).model_copy(update={"max_steps": None}), str(path)).reason


def test_nothing_is_tried_while_the_rate_warms_up() -> None:
    tracks = [Track(groups=[0], shares=[1.0], rates=[1e-4, 1e-3, 5e-4], lowest=[0.0] * 3, highest=[1e-3] * 3)]
    course = LrCourse(kind="linear", steps=[50, 100, 10_000], tracks=tracks)
    assert "warms up" in decide(at(60).model_copy(update={"schedule": course})).reason
    assert decide(at(120).model_copy(update={"schedule": course})).proposals


def test_no_raise_is_tried_where_there_is_nothing_left_to_learn() -> None:
    losses = [4.0] * 20 + [0.01] * 60
    seen = observe(losses, max_steps=10_000).model_copy(update={"capabilities": ["probe"], "knobs": [RATE]})
    command = asked(seen)
    assert command is not None
    assert [c.arguments()["lr"] for c in command.candidates] == pytest.approx([3e-4])


def test_what_came_of_the_last_probe_is_told_with_the_next_decision() -> None:
    last = probed(50, adopted=False)
    assert last.ack is not None
    last = last.model_copy(update={"ack": last.ack.model_copy(update={"message": "nothing was adopted: no gain"})})
    assert decide(at(60, last)).reason.endswith("; the last one: nothing was adopted: no gain")


def test_a_length_that_is_none_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    path.write_text("type: lookahead\nsteps: few\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"none\.yaml:2: steps: .*a part of the run such as 5%"):
        load_policy(str(path))


def finding(kind: str, step: int) -> Finding:
    return Finding(kind=kind, severity="warning", metric="step_loss", step=step, summary=kind)


def test_the_shipped_one_tries_nothing_until_a_finding_says_that_the_rate_may_be_wrong() -> None:
    """Seen: what tried something every 200 steps made 13 of 30 healthy runs worse, for 11 % more steps."""
    for kind in ("plateau", "spike", "goal_plateau", "divergence"):
        healthy = at(5000, findings=[finding(kind, 4990)])
        assert asked(healthy, "lookahead") is None
        assert "nothing was found that asks for a probe" in decide(healthy, "lookahead").reason


@pytest.mark.parametrize(("kind", "factors"), [("low_rate", [3, 10]), ("high_rate", [0.1, 0.3])])
def test_a_finding_says_which_way_to_try(kind: str, factors: list[float]) -> None:
    seen = at(1200, findings=[finding(kind, 1190)])
    command = asked(seen, "lookahead")
    assert command is not None
    assert [c.arguments()["lr"] / 1e-3 for c in command.candidates] == pytest.approx(factors)
    assert (command.steps, command.extra_steps) == (300, 900)
    since = probed(1200, adopted=True)
    assert asked(at(4000, since, findings=[finding(kind, 1190)]), "lookahead") is None, "it has looked since"
    again = at(4000, since, findings=[finding(kind, 1190), finding(kind, 3990)])
    assert asked(again, "lookahead") is not None


@pytest.mark.parametrize(
    ("text", "said"), [("low_rat: [3]", "no detector finds 'low_rat'"), ("low_rate: [1]", "not 1")]
)
def test_factors_for_a_finding_that_cannot_be_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f"type: lookahead\nfactors_on: {{{text}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        load_policy(str(path))
