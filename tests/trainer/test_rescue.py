"""A rule that goes back and lowers the rate: the wreck is undone, and nothing of it stands as a finding any more."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from agenttune.agent.loop import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.detectors import detect
from agenttune.policy.rule_names import names_of
from agenttune.policy.rules import RulePolicy, RulesFile
from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog
from tests.trainer.conftest import Bench
from tests.trainer.test_branches import losses

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
