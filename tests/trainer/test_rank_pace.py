"""Short steps have one flag for several: all ranks still apply the same at the same step."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from agenttune.trainer.distributed.pace import CALM_FLAGS, INTERVAL_S, MOST_STEPS, Pace
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    from agenttune.trainer.distributed import pace
    from agenttune.trainer.distributed.channel import RankChannel
    from tests.trainer.rank_loop import Loop, RANK, begin, finish, newest

    pace.INTERVAL_S, pace.CALM_FLAGS = 1e9, 4  # however long a step takes here
    flags, tell = [], RankChannel.tell

    def noted(self, flag):
        flags.append(flag)
        tell(self, flag)

    RankChannel.tell = noted
    folder = begin()
    orders = {
        20: [{"kind": "save_checkpoint", "tag": "early"}],
        60: [{"kind": "update_optimizer", "lr": 0.004}],
        120: [{"kind": "do_evaluate"}],
        150: [{"kind": "load_checkpoint", "checkpoint_id": "early"}],
    }
    told = Loop(folder, orders, steps=240, evaluate=lambda model: {"loss": 1.0}).run()
    told["flags"], told["states"] = len(flags), []
    if RANK == 0:
        told["states"] = [(r.command.kind, r.state, r.ack.step) for r in newest(folder).commands()]
    finish(folder, told)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(folder), folder=folder):
        assert ended.code == 0, ended.err[-3000:]
        assert "Traceback" not in ended.err, ended.err[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_what_is_asked_for_between_two_flags_is_applied_by_all_ranks_at_the_same_step(
    told: list[dict[str, Any]],
) -> None:
    first, second = told
    assert first["flags"] == second["flags"]
    assert first["flags"] < len(first["steps"]) / 2, "most steps had no flag"
    assert first["steps"] == second["steps"]
    assert first["lr"] == second["lr"]
    assert first["weights"] == second["weights"]
    assert [state for _, state, _ in first["states"]] == ["applied"] * 4


def test_a_command_waits_for_few_steps(told: list[dict[str, Any]]) -> None:
    saved, changed, evaluated, _ = (step for _, _, step in told[0]["states"])
    assert 20 <= saved <= 20 + MOST_STEPS + 1
    assert 60 <= changed <= 60 + MOST_STEPS + 1
    assert 120 <= evaluated <= 120 + MOST_STEPS + 1


@pytest.mark.parametrize(
    ("step_s", "expected"), [(0.0005, MOST_STEPS), (0.01, 20), (0.05, 4), (0.15, 1), (0.5, 1), (60.0, 1)]
)
def test_one_flag_for_steps_of_a_fifth_of_a_second_together(step_s: float, expected: int) -> None:
    now_s = 0.0
    pace = Pace(lambda: now_s)
    steps = 1
    for _ in range(CALM_FLAGS + 3):
        now_s += steps * step_s * 1.0001
        steps = pace.next_steps(MOST_STEPS)
    assert abs(steps - expected) <= 1
    assert steps * step_s <= max(INTERVAL_S, step_s)
    assert pace.next_steps(1) == 1, "no further than to what rank 0 knows of"
    pace.note_command()
    assert pace.next_steps(MOST_STEPS) == 1, "after a command every step has one"
