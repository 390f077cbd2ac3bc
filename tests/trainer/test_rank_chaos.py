"""Every pair of commands while paused, and commands within gradient accumulation, in random order, with delays by rank.

`test_rank_commands` and `test_rank_faults` are the quicker tests of the same promises.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

from tests.warm import run_ranks

pytestmark = [pytest.mark.trainer, pytest.mark.slow]

SCRIPT = """
    import itertools, random, sys, time
    import torch.distributed as dist
    from tests.trainer.rank_loop import RANK, Loop, begin, finish, newest

    folder, told = begin(limit_s=20.0), {"problems": [], "runs": 0}
    kinds = [
        {"kind": "update_optimizer", "lr": 3e-3}, {"kind": "update_optimizer", "weight_decay": 0.2},
        {"kind": "set_knob", "name": "temperature", "value": 0.5},
        {"kind": "set_knob", "name": "temperature", "value": 7.0},
        {"kind": "save_checkpoint"}, {"kind": "save_checkpoint", "keep_in": "memory"},
        {"kind": "load_checkpoint", "checkpoint_id": "start"}, {"kind": "do_evaluate"},
        {"kind": "update_training", "max_steps": 9}, {"kind": "add_note", "text": "x"}, {"kind": "read_model"},
        {"kind": "model_layer_operation", "layer_name": "second", "operation_name": "reset_parameters"},
        {"kind": "model_layer_parameter_update", "layer_name": "drop", "param_name": "p", "value": 0.1},
        {"kind": "update_schedule", "shape": "cosine", "end_step": 9},
        {"kind": "probe", "steps": 2, "candidates": [{"kind": "update_optimizer", "lr": 2e-3}]},
        {"kind": "stop_training", "save": False},
    ]
    pairs = list(itertools.product(kinds, kinds))
    random.Random(int(sys.argv[2])).shuffle(pairs)
    pairs = pairs[: int(sys.argv[3])]

    def one(number, pair):
        chance, own = random.Random(number), random.Random(number * 2 + RANK)
        held = {"temperature": 1.0}

        def set_value(value):
            if RANK == 1 and value == 7.0:
                raise ValueError("no")
            held["temperature"] = value

        def offer(session):
            session.register_knob("temperature", lambda: held["temperature"], set_value)

        def delay(step, optimizer):
            time.sleep(own.random() * 0.004)

        is_paused = number % 2 == 0
        if is_paused:
            orders, paused = {2: [{"kind": "pause_training"}]}, [*pair, {"kind": "resume_training"}]
        else:
            orders, paused = {}, []
            for order in pair:
                orders.setdefault(chance.randint(1, 4), []).append(order)
        loop = Loop(
            folder / str(number), orders, paused_orders=paused, steps=6, accumulate=chance.randint(1, 3),
            before_step=delay, offers=offer, evaluate=lambda model: {"eval_loss": 1.0},
        )
        seen = loop.run()
        stands = [None, None]
        dist.all_gather_object(stands, (seen["weights"], seen["optimizer"], seen["lr"], held["temperature"]))
        if stands[0] != stands[1]:
            told["problems"].append(f"{number} {pair}: the ranks differ")
        if RANK == 0:
            log = newest(loop.folder)
            # The thread that asks may put one more into the log once the run has stopped; nobody is there to answer it.
            ended = log.events(kinds=["status_changed"], limit=1, newest=True)[0].seq
            left = [r.command_id for r in log.commands() if not r.is_settled and r.submitted_seq < ended]
            if left or log.info().status not in ("finished", "stopped"):
                told["problems"].append(f"{number} {pair}: {log.info().status}, no answer to {left}")
            log.close()
        told["runs"] += 1

    for number, pair in enumerate(pairs):
        one(number, [dict(order) for order in pair])
    finish(folder, told)
"""


@pytest.mark.timeout(600)
def test_no_pair_of_commands_hangs_or_parts_the_ranks(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(tmp_path), "0", "160", folder=tmp_path):
        assert ended.code == 0, ended.err[-3000:]
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["runs"] for rank in told] == [160, 160]
    assert told[0]["problems"] == told[1]["problems"] == []
