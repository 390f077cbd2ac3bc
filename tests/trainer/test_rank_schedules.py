"""Any schedule of torch under two ranks: a new rate holds on both; a plan is followed, step by step."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest

from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

KINDS = {
    "LambdaLR": "LambdaLR(o, lambda step: 1 - 0.02 * step)",
    "LambdaLR once an epoch": "LambdaLR(o, lambda epoch: 0.9**epoch)",
    "StepLR": "StepLR(o, 3, 0.5)",
    "CosineAnnealingLR": "CosineAnnealingLR(o, 20, 1e-4)",
    "CosineAnnealingWarmRestarts": "CosineAnnealingWarmRestarts(o, 4)",
    "OneCycleLR": "OneCycleLR(o, 0.02, total_steps=20, cycle_momentum=False)",
    "PolynomialLR": "PolynomialLR(o, 20)",
    "SequentialLR": "SequentialLR(o, [ConstantLR(o, 0.5, 2), ExponentialLR(o, 0.9)], [4])",
    "ReduceLROnPlateau": "ReduceLROnPlateau(o, patience=100)",
}
SHARDED = ("StepLR", "OneCycleLR", "ReduceLROnPlateau")
"""Tried under FSDP2 too, with a checkpoint under the plan that is gone back to."""
SCRIPT = """
    import sys
    import torch
    from torch.optim.lr_scheduler import *
    import agenttune
    from agenttune.trainer import Options
    from tests.trainer.rank_loop import RANK, begin, finish, newest, put

    KINDS = __KINDS__

    folder = begin()

    def saved(here):
        return newest(here).events(kinds=["checkpoint_saved"])[-1].body.checkpoint_id

    def trained(kind, build, sharded=False):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        if sharded:
            ddp = torch.distributed.fsdp.fully_shard(model)
        else:
            ddp = torch.nn.parallel.DistributedDataParallel(model)
        o = torch.optim.SGD(ddp.parameters(), lr=0.01)
        scheduler = eval(build)
        here, used = folder / (kind + " sharded" * sharded), []
        gone_back = not sharded
        options = Options(runs_dir=here / "runs", server=False)
        with agenttune.session(model=ddp, optimizer=o, scheduler=scheduler, max_steps=16, options=options) as s:
            while True:
                loss = ddp(torch.full((2, 4), 1.0 + RANK)).pow(2).mean()
                o.zero_grad(); loss.backward()
                used.append(o.param_groups[0]["lr"])
                o.step()
                if "once an epoch" not in kind or s.global_step % 5 == 4:
                    scheduler.step(*([1.0] if kind == "ReduceLROnPlateau" else []))
                if RANK == 0 and s.global_step == 2:
                    put(here, {"kind": "update_optimizer", "lr": 0.004}, "rate")
                if RANK == 0 and s.global_step == 6:
                    put(here, {"kind": "update_schedule", "shape": "linear", "peak_lr": 0.003}, "plan")
                if sharded and RANK == 0 and s.global_step == 8 and not gone_back:
                    put(here, {"kind": "save_checkpoint"}, "save")
                if sharded and s.global_step == 10 and not gone_back:
                    gone_back = True
                    if RANK == 0:
                        put(here, {"kind": "load_checkpoint", "checkpoint_id": saved(here)}, "load")
                if s.step({"loss": loss.detach()}):
                    break
        acks = {}
        if RANK == 0:
            acks = {r.command_id: (r.ack.outcome, r.ack.message, r.ack.step) for r in newest(here).commands()}
        return {"used": used, "weights": [] if sharded else model.weight.tolist(), "acks": acks}

    found = {kind: trained(kind, build) for kind, build in KINDS.items()}
    finish(folder, found | {kind + " sharded": trained(kind, KINDS[kind], True) for kind in __SHARDED__})
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT).replace("__KINDS__", repr(KINDS)).replace("__SHARDED__", repr(SHARDED)))
    for ended in run_ranks(script, str(folder), folder=folder):
        assert ended.code == 0, ended.err[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_rate_holds_on_both_ranks_under_any_schedule(told: list[dict[str, Any]], kind: str) -> None:
    first, second = told[0][kind], told[1][kind]
    assert first["used"] == second["used"], "the same rates, step by step"
    assert first["weights"] == second["weights"]
    outcome, message, step = first["acks"]["rate"]
    assert outcome == "applied", message
    assert first["used"][step] == pytest.approx(0.004), "the next update's"


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_is_followed_on_both_ranks_whatever_the_schedule(told: list[dict[str, Any]], kind: str) -> None:
    outcome, message, step = told[0][kind]["acks"]["plan"]
    assert outcome == "applied", message
    for rank in (0, 1):
        used = told[rank][kind]["used"][step:]
        left = 16 - step
        assert used == pytest.approx([0.003 * (1 - k / left) for k in range(left)])


@pytest.mark.parametrize("kind", SHARDED)
def test_under_fsdp2_a_return_to_a_checkpoint_under_the_plan_goes_on_with_the_plan(
    told: list[dict[str, Any]], kind: str
) -> None:
    first, second = told[0][f"{kind} sharded"], told[1][f"{kind} sharded"]
    acks = first["acks"]
    assert {name: outcome for name, (outcome, _, _) in acks.items()} == dict.fromkeys(acks, "applied"), acks
    assert len(acks) == 4
    begun, back = acks["plan"][2], acks["save"][2]
    left = back + len(first["used"]) - 16  # steps that were taken twice
    assert left > back
    steps = [*range(begun, left), *range(back, 16)]
    promised = [0.003 * (1 - (step - begun) / (16 - begun)) for step in steps]
    assert first["used"][begun:] == pytest.approx(promised)
    assert second["used"] == first["used"]
