"""All commands on two processes under DDP: on both or on none, a rank that could not is named, a return is exact."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

from agenttune.protocol.proposals import Ack
from agenttune.store.run_log import RunLog, list_runs, run_folder
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    import torch
    from tests.trainer import rank_loop
    from tests.trainer.rank_loop import RANK, Loop, begin, finish

    LIMIT_S = 6.0
    folder, told = begin(LIMIT_S), {}
    pause = {"kind": "pause_training"}
    resume = {"kind": "resume_training"}

    def knobs(held, fails_at=None, limit=None):
        def set_value(value):
            if RANK == 1 and value == fails_at:
                raise ValueError("this rank has no such thing")
            held["temperature"] = value
        def offer(session):
            high = limit if RANK == 1 else None
            session.register_knob("temperature", lambda: held["temperature"], set_value, bounds=(0.0, high))
        return offer

    told["alone"] = Loop(folder / "alone", attached=False).run()
    told["quiet"] = Loop(folder / "quiet").run()

    told["paused"] = Loop(
        folder / "paused", {3: [pause]},
        paused_orders=[
            {"kind": "save_checkpoint", "tag": "a"}, {"kind": "save_checkpoint", "tag": "b"},
            {"kind": "update_optimizer", "lr": 5e-3, "weight_decay": 0.3}, {"kind": "do_evaluate"},
            {"kind": "save_checkpoint", "keep_in": "memory", "tag": "c"}, {"sleep": LIMIT_S + 0.5}, resume,
        ],
        evaluate=lambda model: {"eval_loss": 1.0 + RANK},
    ).run()

    held = {"temperature": 1.0}
    told["knobs"] = Loop(
        folder / "knobs",
        {2: [{"kind": "set_knob", "name": "temperature", "value": 0.5}],
         4: [{"kind": "set_knob", "name": "temperature", "value": 0.7}],
         6: [{"kind": "set_knob", "name": "temperature", "value": 9.0}]},
        offers=knobs(held, fails_at=0.7, limit=5.0),
    ).run() | {"held": held["temperature"]}

    told["back"] = Loop(
        folder / "back",
        {4: [{"kind": "save_checkpoint", "keep_in": "memory", "tag": "ram"}],
         6: [{"kind": "save_checkpoint", "tag": "disk"}],
         9: [{"kind": "load_checkpoint", "checkpoint_id": "ram"}],
         12: [{"kind": "load_checkpoint", "checkpoint_id": "disk"}]},
        steps=14,
    ).run()

    told["probe"] = Loop(
        folder / "probe",
        {4: [{"kind": "probe", "steps": 2, "candidates": [
            {"kind": "update_optimizer", "lr": 1e-9}, {"kind": "update_optimizer", "lr": 2e-2}]}]},
        steps=14,
    ).run()

    back = [{"kind": "load_checkpoint", "checkpoint_id": "ram", "lr": rate} for rate in (1e-9, 2e-2)]
    told["returns"] = Loop(
        folder / "returns",
        {4: [{"kind": "save_checkpoint", "keep_in": "memory", "tag": "ram"}],
         7: [{"kind": "probe", "steps": 2, "candidates": back, "min_gain_frac": 1.0}],
         9: [{"kind": "probe", "steps": 2, "candidates": back[1:], "include_current": False}]},
        steps=14,
    ).run()

    told["layers"] = Loop(
        folder / "layers",
        {2: [{"kind": "read_model", "norms": True}],
         4: [{"kind": "model_layer_operation", "layer_name": "second", "operation_name": "reset_parameters"}],
         6: [{"kind": "model_layer_operation", "layer_name": "first", "operation_name": "requires_grad_",
              "params": {"requires_grad": False}}],
         8: [{"kind": "model_layer_parameter_update", "layer_name": "drop", "param_name": "p", "value": 0.0}],
         9: [{"kind": "update_training", "max_steps": 16}]},
        find_unused=True,
    ).run()

    def ask(step, optimizer):
        if RANK == 0 and step == 4:
            meanwhile = [{"kind": "update_optimizer", "lr": 2e-3},
                         {"kind": "read_model", "norms": True},
                         {"kind": "probe", "steps": 2, "candidates": back}]
            rank_loop.hold(folder / "held", {"kind": "update_optimizer", "lr": 4e-3}, LIMIT_S + 1, meanwhile)

    told["held"] = Loop(folder / "held", before_step=ask, step_s=0.05, steps=20).run()

    def differ(step, optimizer):
        if RANK == 1 and step == 30:
            optimizer.param_groups[0]["weight_decay"] = 0.123

    try:
        Loop(folder / "apart", steps=200, before_step=differ).run()
        told["apart"] = ""
    except Exception as error:
        told["apart"] = f"{type(error).__name__}: {error}"
    finish(folder, told)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(folder), folder=folder):
        assert ended.code == 0, ended.err[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def log_of(folder: Path) -> RunLog:
    (info,) = list_runs(folder / "runs")
    return RunLog.open(run_folder(folder / "runs", info.run_id))


def acks(folder: Path) -> dict[str, Ack]:
    return {record.command_id: record.ack for record in log_of(folder).commands() if record.ack is not None}


Ranks = tuple[Path, list[dict[str, Any]]]


def both(ranks: Ranks, name: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    folder, (first, second) = ranks
    assert first[name]["weights"] == second[name]["weights"], "the ranks train alike"
    assert first[name]["lr"] == second[name]["lr"]
    assert first[name]["optimizer"] == second[name]["optimizer"]
    return folder / name, first[name], second[name]


def test_with_no_command_every_rank_trains_as_without_agenttune(ranks: Ranks) -> None:
    folder, first, second = both(ranks, "quiet")
    assert [first, second] == [rank["alone"] | {"steps": first["steps"]} for rank in ranks[1]]
    assert log_of(folder).info().status == "finished"


def test_a_paused_run_saves_twice_and_goes_on(ranks: Ranks) -> None:
    folder, first, _ = both(ranks, "paused")
    found = acks(folder)
    assert {ack.outcome for ack in found.values()} == {"applied"}, found
    assert len(found) == 7
    assert first["steps"][-1] == 12
    assert first["lr"][4] == 5e-3
    assert found["paused-3"].result["eval_loss"] == 1.0


def test_a_rank_that_cannot_is_named_and_no_rank_keeps_the_change(ranks: Ranks) -> None:
    folder, first, second = both(ranks, "knobs")
    found = acks(folder)
    assert found["at-2-0"].outcome == "applied"
    assert found["at-4-0"].outcome == "failed"
    assert found["at-4-0"].message == "rank 1: ValueError: this rank has no such thing; put back on all ranks"
    assert found["at-6-0"].message.startswith("rank 1: knob 'temperature' takes 0.0 to 5.0, not 9.0; nothing has")
    assert (first["held"], second["held"]) == (0.5, 0.5)


def test_a_return_gives_the_same_losses_to_the_bit_on_every_rank(ranks: Ranks) -> None:
    folder, first, second = both(ranks, "back")
    found = acks(folder)
    assert {name: ack.outcome for name, ack in found.items()} == dict.fromkeys(found, "applied"), found
    ram, disk = found["at-4-0"].step, found["at-6-0"].step
    left, last = (found[name].result["from_step"] for name in ("at-9-0", "at-12-0"))
    expected = [*range(1, left + 1), *range(ram + 1, last + 1), *range(disk + 1, 15)]
    for rank in (first, second):
        steps, losses = rank["steps"], rank["losses"]
        by_visit: dict[int, list[float]] = {}
        for step, loss in zip(steps, losses, strict=True):
            by_visit.setdefault(step, []).append(loss)
        assert steps == expected
        again = {step: seen for step, seen in by_visit.items() if len(seen) > 1}
        assert len(again) >= left - ram
        assert {step: seen for step, seen in again.items() if len(set(seen)) > 1} == {}


def test_a_probe_tries_on_all_ranks_and_leaves_no_trace_but_what_it_adopts(ranks: Ranks) -> None:
    folder, first, _ = both(ranks, "probe")
    (ack,) = acks(folder).values()
    assert ack.outcome == "applied", ack.message
    assert ack.result["adopted"]["lr"] == 2e-2
    assert first["steps"][-1] == 14


def test_returns_are_tried_and_adopted_on_all_ranks(ranks: Ranks) -> None:
    folder, first, _ = both(ranks, "returns")
    save, none, one = acks(folder).values()
    assert {ack.outcome for ack in (save, none, one)} == {"applied"}, (none.message, one.message)
    assert (none.result["adopted"], one.result["adopted"]["lr"]) == (None, 2e-2)
    assert none.step > save.step
    assert (one.step, one.result["from_branch"]) == (save.step, "main")
    assert one.result["from_step"] > none.step
    assert first["steps"][-1] == 14


def test_layers_are_reset_alike_frozen_and_read(ranks: Ranks) -> None:
    folder, first, _ = both(ranks, "layers")
    found = acks(folder)
    assert {name: ack.outcome for name, ack in found.items()} == dict.fromkeys(found, "applied"), found
    assert first["steps"][-1] == 16
    assert found["at-2-0"].result["weight_norm"] > 0


def test_training_waits_on_all_ranks_for_an_approval_however_long(ranks: Ranks) -> None:
    """Longer than any collective of theirs would."""
    folder, first, _ = both(ranks, "held")
    assert acks(folder)["held"].outcome == "applied"
    assert 4e-3 in first["lr"]
    assert first["steps"][-1] == 20
    statuses = [e.body.model_dump()["status"] for e in log_of(folder).events(kinds=["status_changed"])]
    assert statuses == ["running", "paused", "running", "finished"]


def test_what_is_asked_while_all_ranks_are_held_is_answered_at_once(ranks: Ranks) -> None:
    found = acks(both(ranks, "held")[0])
    rate, read, probe, approved = (found[name] for name in ("meanwhile-0", "meanwhile-1", "meanwhile-2", "held"))
    assert rate.step == read.step == probe.step == approved.step
    assert (rate.outcome, rate.confirmed_step) == ("applied", None)
    assert "training is held for an approval" in rate.message
    assert "no gradient norms: training is held" in read.message
    assert (probe.outcome, "training is held" in probe.message) == ("failed", True)
    assert approved.confirmed_step == approved.step + 1


def test_a_difference_that_nobody_made_ends_training_and_names_the_rank(ranks: Ranks) -> None:
    for told in ranks[1]:
        assert told["apart"].startswith("RanksApart: the ranks no longer train alike at step 64: weight_decay")
        assert "[0.123] on rank 1 and [0.01] on rank 0" in told["apart"]
    info = log_of(ranks[0] / "apart").info()
    assert info.status == "failed"
