"""A rule that goes back and lowers the rate: the wreck is undone, and nothing of it stands as a finding any more."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import agenttune
from agenttune.agent.loop import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.detectors import detect
from agenttune.policy.rule_names import names_of
from agenttune.policy.rules import RulePolicy, RulesFile
from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import RunInfo
from agenttune.protocol.text import number
from agenttune.store.run_log import RunLog
from agenttune.views.report.journal import read_journal
from agenttune.views.report.run_text import head
from tests.integrations.loops import loader_of
from tests.trainer.conftest import At, Bench, Points, TinyModel
from tests.trainer.test_branches import losses, steered
from tests.trainer.test_kept_states import make_log

pytestmark = pytest.mark.trainer
PATIENCE_S = 60.0
RESCUE: dict[str, Any] = {
    "name": "rescue",
    "when": 'state.good != "" and state.returns_left > 0 '
    'and (found.divergence == "critical" or found.non_finite == "critical")',
    "do": {
        "command": "load_checkpoint",
        "checkpoint_id": "=state.good",
        "lr": "=base_lr * 0.03",
        "reset_optimizer": True,
    },
    "because": "from step {step} back to {state.good_step:.0f}, with {base_lr * 0.03:.3g}",
    "cooldown_steps": 20,
    "max_times": 3,
}
EASE: dict[str, Any] = {
    "name": "wreck",
    "when": "step >= 60 and fired('wreck') == 0",
    "do": {"command": "update_optimizer", "lr": 0.9},
    "because": "a mistake",
}


def rescued(bench: Bench, monkeypatch: pytest.MonkeyPatch, rules: list[dict[str, Any]], **how: Any) -> Any:
    wake = WakeSettings(mode="lockstep", every_steps=10, lockstep_limit_s=PATIENCE_S)
    info = RunInfo(
        run_id="r1",
        name="r1",
        status="starting",
        created_at_s=time.time(),
        rules={"wake": wake.model_dump(mode="json")},
        goal_metric="eval_loss",
    )
    RunLog.create(bench.runs_dir / "r1", info).close()
    monkeypatch.setenv("AGENTTUNE_RUN_ID", "r1")
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(bench.runs_dir))
    file = RulesFile.model_validate({"type": "rules", "rules": rules})
    policy = RulePolicy("rules", tuple(file.rules))
    loop = AgentLoop(LocalControl(bench.runs_dir), "r1", policy, WakeSettings(poll_s=0.02))
    agent = threading.Thread(target=loop.run, daemon=True)
    agent.start()
    result = bench.run([], max_steps=160, rows=64, data_seed=3, optim="sgd", lr_scheduler_type="constant", **how)
    agent.join(PATIENCE_S)
    assert not agent.is_alive()
    return result


def test_a_blow_up_is_undone_by_a_rule_and_does_not_stand_as_a_finding(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rescued(bench, monkeypatch, [RESCUE, EASE], learning_rate=5e-3, max_grad_norm=0.0)
    wreck, *returns = result.records()
    assert wreck.state is State.APPLIED
    assert returns
    for record in returns:
        assert record.state is State.APPLIED, record.ack
    first = returns[0]
    assert first.ack.step <= wreck.ack.step
    log = RunLog.open(bench.runs_dir / "r1")
    observation = LocalControl(bench.runs_dir).observe("r1")
    assert [f.kind for f in detect(observation) if f.severity == "critical"] == []
    last = losses(result)[log.info().branch]
    assert max(last[step] for step in list(last)[-20:]) < 60
    names = names_of(observation)
    assert names["state"]["good"]
    assert names["state"]["start_step"] == 0


class Weights(TrainerCallback):  # type: ignore[misc]
    """Those of each evaluated step."""

    def __init__(self) -> None:
        self.at: dict[int, list[torch.Tensor]] = {}

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.at[int(state.global_step)] = [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize(("loads", "theirs"), [(True, False), (False, False), (True, True)])
def test_the_best_state_is_told_at_the_end_and_loaded_where_that_is_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, loads: bool, theirs: bool
) -> None:
    """To the bit; a Trainer that loads its own best is left alone."""
    make_log(bench, monkeypatch, checkpoints={"load_best_at_end": loads})
    weights, worse = Weights(), [At(20, {"kind": "update_optimizer", "lr": 0.5})]
    how: dict[str, Any] = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 6} if theirs else {}
    result = steered(bench, worse, [weights], max_steps=36, eval_strategy="steps", eval_steps=6, **how)
    body = next(iter(result.bodies("best_state")), None)
    final = [p.detach() for p in result.trainer.model.parameters()]
    stands = [step for step, at in weights.at.items() if all(torch.equal(a, b) for a, b in zip(at, final, strict=True))]
    if theirs:
        assert body is None
        return
    assert body is not None
    assert body.is_loaded is loads
    assert stands == ([body.at_step] if loads else [36])
    assert body.value < body.end_value
    words = dict(head(read_journal(result.log())))["best"]
    assert f"eval_loss {number(body.value)} at step {body.at_step}, state best; the end is" in words
    assert ("its weights are in the model" in words) is loads


def test_a_loop_of_ones_own_ends_with_its_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_log(Bench(tmp_path), monkeypatch, checkpoints={"load_best_at_end": True})
    model = TinyModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    values, seen = [3.0, 2.0, 4.0, 5.0], list[list[torch.Tensor]]()
    with agenttune.session(model=model, optimizer=optimizer, max_steps=8) as s:
        for batch in s.batches(loader_of(Points(32))):
            optimizer.zero_grad()
            loss = model(**batch)["loss"]
            loss.backward()
            optimizer.step()
            done = s.step({"loss": loss})
            if s.global_step % 2 == 0:
                seen.append([p.detach().clone() for p in model.parameters()])
                s.log_eval({"loss": values[len(seen) - 1]})
            if done:
                break
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), seen[1], strict=True))
