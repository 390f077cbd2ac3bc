"""What a run watches, keeps, draws from and waits for, on two processes: the same on both, and who cannot is named."""

from __future__ import annotations

import json
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from agenttune.protocol.events import CheckpointSaved, NoteAdded, Settled
from agenttune.protocol.proposals import State
from tests.trainer.test_rank_commands import Ranks, acks, both, log_of
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer

SCRIPT = """
    import resource, threading, time
    from agenttune.agent import AgentLoop
    from agenttune.config import WakeSettings
    from agenttune.control import LocalControl
    from agenttune.policy.base import Decision, Draft
    from agenttune.protocol.commands import UpdateOptimizer
    from agenttune.store.run_log import list_runs
    from agenttune.trainer.datasets import Mixture, make_interactive_dataset
    from tests.trainer.conftest import Points
    from tests.trainer.rank_loop import RANK, Loop, begin, finish, sharded

    LIMIT_S = 6.0
    folder, told = begin(LIMIT_S), {}

    # -- watched -------------------------------------------------------------------------------------------------

    harm = {"kind": "update_optimizer", "lr": 3.0, "by": "agent", "id": "harm"}
    for engine in ("ddp", "fsdp2"):
        for depth, keep_in in (("knob", "memory"), ("state", "memory"), ("state", "disk")):
            watched = {"steps": 8, "depth": depth, "keep_in": keep_in, "stall_steps": 0}
            name = f"watched-{engine}-{depth}-{keep_in}"
            told[name] = Loop(
                folder / name, {12: [dict(harm)]}, engine=engine, steps=30, rules={"probation": watched}
            ).run()

    # -- kept ----------------------------------------------------------------------------------------------------

    back = {"kind": "load_checkpoint", "id": "best", "checkpoint_id": "best"}
    changed = {**back, "lr": 5e-3, "reset_optimizer": True, "id": "changed"}
    for engine, memory_gib in (("ddp", 4.0), ("ddp", 1e-9), ("fsdp2", 4.0), ("fsdp2", 1e-9)):
        name = f"kept-{engine}-{'memory' if memory_gib > 1 else 'disk'}"
        told[name] = Loop(
            folder / name,
            {10: [{"kind": "do_evaluate"}], 15: [dict(back)], 20: [{**back, "id": "good", "checkpoint_id": "good"}],
             22: [dict(changed)], 24: [{**back, "id": "start", "checkpoint_id": "start"}]},
            engine=engine, steps=25, evaluate=lambda model: {"eval_loss": 1.0},
            rules={"checkpoints": {"memory_gib": memory_gib}},
        ).run()

    for name, evaluates in (("logged", None), ("logged-given", lambda model: {"eval_loss": 1.0})):
        sessions = []

        def log_evaluation(step, optimizer):
            if RANK == 0 and step in (4, 6):
                sessions[-1].log_eval({"eval_loss": 1.0})

        told[name] = Loop(
            folder / name, before_step=log_evaluation, offers=sessions.append, evaluate=evaluates,
        ).run()

    visits = []

    def set_elsewhere(step, optimizer):
        visits.append(step)
        if visits.count(1) == 2 and step == 1:
            optimizer.param_groups[0]["lr"] = 0.123

    told["overruled"] = Loop(
        folder / "overruled", {6: [{**back, "checkpoint_id": "start", "lr": 5e-3}]}, steps=66,
        before_step=set_elsewhere,
    ).run()

    # -- a rank that cannot save ---------------------------------------------------------------------------------

    class Own:
        fails = False

        def state_dict(self):
            if RANK == 1 and self.fails:
                raise RuntimeError("it is in use")
            return {"n": 1}

        def load_state_dict(self, state):
            pass

    for engine in ("ddp", "fsdp2"):
        own = Own()

        def fail_for_a_while(step, optimizer):
            own.fails = 3 <= step < 10

        name = f"unsaved-{engine}"
        save = {"kind": "save_checkpoint"}
        told[name] = Loop(
            folder / name,
            {4: [{**save, "id": "disk"}], 5: [{**save, "keep_in": "memory", "pin": True, "tag": "ram", "id": "ram"}],
             11: [{**back, "checkpoint_id": "ram", "id": "to-ram"}], 12: [{**save, "id": "later"}]},
            engine=engine, before_step=fail_for_a_while, offers=lambda session: session.register_state("own", own),
            rules={"checkpoints": {"good_states": 1}}, steps=24,
        ).run()

    def fill_disk(step, optimizer):
        if RANK == 1 and step in (3, 7):
            most = 3000 if step == 3 else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))

    told["full"] = Loop(
        folder / "full", {4: [{**save, "id": "full"}], 8: [{**save, "id": "later"}]}, engine="fsdp2",
        before_step=fill_disk,
    ).run()

    def evaluate(model):
        if RANK == 1:
            raise ValueError("no validation data")
        return {"eval_loss": 1.0}

    told["unevaluated"] = Loop(folder / "unevaluated", {4: [{"kind": "do_evaluate"}]}, evaluate=evaluate).run()

    # -- data ----------------------------------------------------------------------------------------------------

    drawn = []

    class Scaled(Points):
        def __init__(self, count, seed=0, scale=1.0):
            if seed == 13 and RANK == 1:
                raise OSError("no such file")
            super().__init__(count)
            self.seed, self.scale = seed, scale

        def __getitem__(self, index):
            drawn.append((index, self.scale))
            row = super().__getitem__(index)
            return {"x": row["x"] * self.scale, "labels": row["labels"]}

        def validate_scale(self, value):
            if RANK == 1 and value == 7.0:
                raise RuntimeError("not on this rank")

    def load(dataset):
        if RANK == 1 and dataset.seed == 7:
            raise RuntimeError("no loader here")
        return sharded(dataset)

    live = {"kind": "update_dataset_runtime_hyperparameters"}
    reload = {"kind": "update_dataset"}
    told["data"] = Loop(
        folder / "data",
        {2: [{**live, "id": "scale", "values": {"scale": 2.0}}],
         4: [{**live, "id": "no-scale", "values": {"scale": 7.0}}],
         6: [{**reload, "id": "smaller", "values": {"count": 64}}],
         8: [{**reload, "id": "no-file", "values": {"seed": 13}}],
         10: [{**reload, "id": "no-loader", "values": {"seed": 7}}],
         12: [{**save, "tag": "disk"}], 14: [{**reload, "values": {"count": 32}}],
         17: [{**back, "checkpoint_id": "disk", "id": "back"}]},
        data=make_interactive_dataset(Scaled, runtime=["scale"])(96), load=load, steps=18,
    ).run() | {"drawn": list(drawn)}

    for engine in ("ddp", "fsdp2"):
        drawn.clear()
        name = f"onward-{engine}"
        told[name] = Loop(
            folder / name,
            {4: [{**save, "keep_in": "memory", "tag": "ram"}],
             9: [{**back, "checkpoint_id": "ram", "skip_seen_data": True, "id": "onward"}]},
            engine=engine, data=Scaled(96), load=sharded, steps=12,
        ).run() | {"drawn": [index for index, _ in drawn]}
    drawn.clear()
    told["longer"] = Loop(folder / "longer", data=Scaled(96), load=sharded, steps=24).run() | {
        "drawn": [index for index, _ in drawn]
    }

    mixed = []

    class Source(Points):
        def __init__(self, sign):
            super().__init__(200)
            self.sign = sign

        def __getitem__(self, index):
            mixed.append((self.sign, index))
            row = super().__getitem__(index)
            return {"x": row["x"], "labels": row["labels"] * self.sign}

    told["mixture"] = Loop(
        folder / "mixture",
        {3: [{**live, "id": "a", "values": {"weights": {"a": 1.0, "b": 0.0}}}],
         6: [{**save, "keep_in": "memory", "tag": "ram"}],
         8: [{**live, "values": {"weights": {"a": 0.0, "b": 1.0}}}],
         11: [{**back, "checkpoint_id": "ram", "id": "back"}]},
        data=Mixture({"a": Source(1), "b": Source(-1)}, weights={"a": 0.5, "b": 0.5}, size=96, seed=3), steps=12,
    ).run() | {"drawn": mixed}

    # -- waited for ----------------------------------------------------------------------------------------------

    class Slow:
        name = "slow"

        def decide(self, observation):
            if observation.step == 4:
                time.sleep(LIMIT_S + 1)
            return Decision([Draft(UpdateOptimizer(lr=1e-2 - 2.5e-4 * observation.step), "now")], "as told")

    wake = WakeSettings(mode="lockstep", every_steps=4, early_until_step=0, lockstep_limit_s=60.0)

    def attend():
        runs = folder / "waits" / "runs"
        while not runs.exists() or not list_runs(runs):
            time.sleep(0.01)
        AgentLoop(LocalControl(runs), "run", Slow(), WakeSettings(poll_s=0.05, early_until_step=0)).run()

    if RANK == 0:
        threading.Thread(target=attend, daemon=True).start()
    told["waits"] = Loop(folder / "waits", rules={"wake": wake.model_dump(mode="json")}).run()
    finish(folder, told)
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    for ended in run_ranks(script, str(folder), folder=folder):
        assert ended.code == 0, ended.err[-3000:]
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def by_step(told: dict[str, Any], name: str = "losses") -> dict[int, list[Any]]:
    """What was seen at each step, in the order in which training came there."""
    found = defaultdict(list)
    for step, seen in zip(told["steps"], told[name], strict=False):
        found[step].append(seen)
    return dict(found)


def notes(folder: Path) -> list[str]:
    return [e.body.text for e in log_of(folder).events(kinds=["note_added"]) if isinstance(e.body, NoteAdded)]


ENGINES = pytest.mark.parametrize("engine", ["ddp", "fsdp2"])


@ENGINES
def test_every_rank_goes_on_with_its_own_part_of_the_data(ranks: Ranks, engine: str) -> None:
    folder, seen = ranks
    ack = log_of(folder / f"onward-{engine}").command("onward").ack
    assert ack is not None
    assert (ack.outcome, ack.step) == ("applied", 4), ack.message
    for told in seen:
        steps, drawn = told[f"onward-{engine}"]["steps"], told[f"onward-{engine}"]["drawn"]
        left_at = steps.index(5, 5)
        assert steps == [*range(1, left_at + 1), *range(5, 13)]
        expected = told["longer"]["drawn"][: len(drawn)]
        assert len(drawn) == 4 * len(steps)
        assert drawn == expected


@ENGINES
@pytest.mark.parametrize(("depth", "keep_in"), [("knob", "memory"), ("state", "memory"), ("state", "disk")])
def test_a_change_that_hurts_is_reverted_on_every_rank(ranks: Ranks, engine: str, depth: str, keep_in: str) -> None:
    folder, first, second = both(ranks, f"watched-{engine}-{depth}-{keep_in}")
    log = log_of(folder)
    assert log.command("harm").state is State.REVERTED
    (settled,) = [e.body for e in log.events(kinds=["settled"]) if isinstance(e.body, Settled)]
    assert settled.outcome == "reverted"
    assert "it rose" in settled.reason
    revert = next(record for record in log.commands() if record.command_id == settled.reverted_by)
    assert revert.proposal.author.principal == "trainer"
    assert max(first["lr"]) == 3.0
    assert first["lr"][-1] < 0.01
    if depth == "state":
        harmed = log.command("harm").ack
        assert harmed is not None
        for told in (first, second):
            one, other = by_step(told)[harmed.step + 1]
            assert one == other, "of the weights of before the change, with that step's own batch and dropout"
            assert max(told["losses"][-6:]) < 30, "weights and optimizer are those of before too"


def test_every_rank_judges_by_the_losses_of_all(ranks: Ranks) -> None:
    """Rank 0's own of the newest steps would say otherwise in each of these runs, which take their time as it comes."""
    found = set()
    for name in ("ddp-state-memory", "ddp-state-disk", "fsdp2-state-memory", "fsdp2-state-disk"):
        folder, first, second = both(ranks, f"watched-{name}")
        (settled,) = [e.body for e in log_of(folder).events(kinds=["settled"]) if isinstance(e.body, Settled)]
        assert settled.found is not None
        found.add(round(settled.found, 2))
        assert first["losses"] != second["losses"]
    assert len(found) == 1, found


@ENGINES
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_going_back_to_what_the_run_has_kept_is_exact_on_every_rank(ranks: Ranks, engine: str, where: str) -> None:
    folder, first, second = both(ranks, f"kept-{engine}-{where}")
    found = acks(folder)
    assert {name: ack.outcome for name, ack in found.items()} == dict.fromkeys(found, "applied"), found
    best, changed = found["best"].step, found["changed"]
    assert changed.step == best
    left = changed.result["from_step"]
    for told in (first, second):
        # The stretch after the return that changes something is a training of its own; all others repeat each other.
        begins = len(told["steps"]) - 1 - told["steps"][::-1].index(1)
        altered = range(begins - (found["start"].result["from_step"] - best), begins)
        for step, losses in by_step({"steps": told["steps"], "losses": list(enumerate(told["losses"]))}).items():
            kept = {loss for place, loss in losses if place not in altered}
            assert len(kept) == 1, step
        assert told["steps"][altered[0]] == best + 1
        assert told["lr"][altered[0]] != told["lr"][altered[0] - (left - best)]
    assert changed.result["optimizer_state_cleared"] > 0


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("logged", "give session(evaluate=...) for that"),
        ("logged-given", "a command or a policy can ask for do_evaluate"),
    ],
)
def test_what_is_logged_by_one_rank_is_told_once_with_advice_that_is_still_to_be_followed(
    ranks: Ranks, name: str, advice: str
) -> None:
    folder, _, _ = both(ranks, name)
    [text] = [text for text in notes(folder) if "best evaluation" in text]
    assert text.endswith(f"; this evaluation is recorded all the same; {advice}")


def test_a_rate_that_does_not_hold_after_a_return_is_put_back_on_every_rank(ranks: Ranks) -> None:
    """Or the comparison at step 64 would end training."""
    folder, first, _ = both(ranks, "overruled")
    ack = acks(folder)["best"]
    assert ack.outcome == "failed"
    assert "went back as branch branch-1, but" in ack.message
    assert "something else sets the rate" in ack.message
    assert first["steps"][-1] == 66


@ENGINES
def test_what_one_rank_cannot_save_is_no_checkpoint(ranks: Ranks, engine: str) -> None:
    folder, _, _ = both(ranks, f"unsaved-{engine}")
    found = acks(folder)
    for name in ("disk", "ram"):
        assert found[name].outcome == "failed"
        assert found[name].message == "rank 1: RuntimeError: it is in use"
    assert "no checkpoint 'ram'" in found["to-ram"].message, "not offered, though it was to be pinned"
    assert found["later"].outcome == "applied"
    saved = [path.name for path in (folder / "runs" / "run" / "checkpoints").iterdir()]
    assert saved == [found["later"].result["checkpoint_id"]]
    assert "a good state could not be kept: rank 1: RuntimeError: it is in use" in notes(folder)
    events = [e.body for e in log_of(folder).events(kinds=["checkpoint_saved"])]
    assert "good" in [body.kept_as for body in events if isinstance(body, CheckpointSaved)], "and a later one was"


def test_a_rank_whose_disk_is_full_is_named_and_training_goes_on(ranks: Ranks) -> None:
    folder, first, _ = both(ranks, "full")
    found = acks(folder)
    assert found["full"].outcome == "failed"
    assert found["full"].message.startswith("rank 1: ")
    assert "File too large" in found["full"].message
    assert found["later"].outcome == "applied"
    assert first["steps"][-1] == 12


def test_an_evaluation_that_fails_on_one_rank_names_it(ranks: Ranks) -> None:
    folder, _, _ = both(ranks, "unevaluated")
    (ack,) = acks(folder).values()
    assert ack.outcome == "failed"
    assert ack.message == "rank 1: ValueError: no validation data; nothing has changed on any rank"


def test_a_datasets_values_change_on_all_ranks_or_on_none_and_each_draws_its_shard(ranks: Ranks) -> None:
    folder, first, second = both(ranks, "data")
    found = acks(folder)
    refused = {name: ack.message for name, ack in found.items() if ack.outcome != "applied"}
    assert refused.keys() == {"no-scale", "no-file", "no-loader"}
    assert all(message.startswith("rank 1: ") for message in refused.values())
    assert all("nothing has changed on any rank" in message for message in refused.values())
    draws = [[told["drawn"][i : i + 4] for i in range(0, len(told["drawn"]), 4)] for told in (first, second)]
    scale, smaller, back = (found[name].step for name in ("scale", "smaller", "back"))
    for told, batches in zip((first, second), draws, strict=True):
        assert {value for batch in batches[:scale] for _, value in batch} == {1.0}
        assert {value for batch in batches[scale:] for _, value in batch} == {2.0}
        seen = by_step({"steps": told["steps"], "losses": batches})
        assert seen[back + 1][0] == seen[back + 1][1]
    for epoch in (slice(smaller, smaller + 8), slice(smaller + 8, found["at-14-0"].step)):
        shards = [{index for batch in batches[epoch] for index, _ in batch} for batches in draws]
        assert not shards[0] & shards[1], "also after a reload that one rank could not make"
        assert max(shards[0] | shards[1]) < 64


def test_a_mixtures_weights_change_on_all_ranks_and_go_back(ranks: Ranks) -> None:
    folder, first, second = both(ranks, "mixture")
    found = acks(folder)
    assert {ack.outcome for ack in found.values()} == {"applied"}, found
    changed, back = found["a"].step, found["back"].step
    draws = [[told["drawn"][i : i + 4] for i in range(0, len(told["drawn"]), 4)] for told in (first, second)]
    for told, batches in zip((first, second), draws, strict=True):
        again = by_step({"steps": told["steps"], "losses": batches})
        assert {sign for batch in batches[changed:back] for sign, _ in batch} == {1}
        assert {sign for batch in again[12] for sign, _ in batch} == {1}, "the weights of before again"
        assert again[back + 1][0] == again[back + 1][1]
        assert {sign for batch in batches for sign, _ in batch} == {1, -1}
    assert draws[0][:changed] != draws[1][:changed], "each its own"


def test_all_ranks_wait_for_the_agents_decision_however_long_it_takes(ranks: Ranks) -> None:
    """Longer than any collective of theirs would."""
    folder, first, _ = both(ranks, "waits")
    assert [ack.step for ack in acks(folder).values()] == [4, 8]
    assert (first["lr"][4], first["lr"][8]) == pytest.approx((9e-3, 8e-3))
    assert notes(folder) == []
