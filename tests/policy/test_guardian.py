"""What the shipped guardian promises: it rescues, it speeds up, and it leaves a good run alone.

Closed loop: a real log, the real control, gate and agent loop; only the trainer is a small simulation.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agenttune.agent import AgentLoop
from agenttune.config import WakeSettings
from agenttune.control import LocalControl
from agenttune.policy.load import load_policy
from agenttune.protocol.commands import StopTraining, UpdateOptimizer
from agenttune.protocol.events import Decided, Found
from tests.policy.conftest import SteeredRun, Valley, applied, observe


def guarded(runs_dir: Path, valley: Valley) -> tuple[Valley, SteeredRun, LocalControl]:
    """Train to the end with the guardian looking every ten steps."""
    run, control = SteeredRun(runs_dir, valley), LocalControl(runs_dir)
    loop = AgentLoop(control, "r1", load_policy("guardian"), WakeSettings(), clock_s=lambda: 0.0)
    while len(valley.losses) < valley.max_steps and not run.stopped:
        run.step()
        if len(valley.losses) % 10 == 0:
            assert loop.tick()
    run.apply_queued()
    run.finish()
    assert not loop.tick()
    return valley, run, control


def alone(valley: Valley) -> Valley:
    while len(valley.losses) < valley.max_steps:
        valley.step()
    return valley


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lr", [0.25, 0.5])
def test_a_far_too_high_rate_is_rescued(runs_dir: Path, lr: float, seed: int) -> None:
    valley, run, _ = guarded(runs_dir, Valley(lr=lr, seed=seed))
    assert not run.stopped
    assert valley.losses[-1] < valley.losses[0] / 10
    assert not alone(Valley(lr=lr, seed=seed)).losses[-1] < 1e3
    run.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("lr", "noise"), [(0.1, 0.02), (0.05, 0.1), (0.03, 0.5)])
def test_a_healthy_run_is_never_touched(runs_dir: Path, lr: float, noise: float, seed: int) -> None:
    _, run, _ = guarded(runs_dir, Valley(lr=lr, seed=seed, noise=noise))
    assert run.log.commands() == []
    run.close()


def test_a_far_too_low_rate_is_raised_step_by_step_and_helps(runs_dir: Path) -> None:
    valley, run, _ = guarded(runs_dir, Valley(lr=5e-5, noise=0.002))
    rates = [float(c.proposal.command.arguments()["lr"]) for c in run.log.commands()]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1.5e-4)
    assert valley.losses[-1] < 0.95 * alone(Valley(lr=5e-5, noise=0.002)).losses[-1]
    run.close()


def test_every_step_of_a_rescue_is_in_the_log_with_figures(runs_dir: Path) -> None:
    _, run, control = guarded(runs_dir, Valley(lr=0.5))
    bodies = [event.body for event in control.events("r1")]
    findings = [body.finding for body in bodies if isinstance(body, Found)]
    assert findings[0].kind == "divergence"
    assert len(findings) <= 10
    acted = [body for body in bodies if isinstance(body, Decided) and body.command_ids]
    assert "far too high" in acted[0].reason
    assert run.log.command(acted[0].command_ids[0]).proposal.rationale == acted[0].reason
    run.close()


def test_lost_weights_are_given_up_after_a_cut_did_not_help() -> None:
    guardian = load_policy("guardian")
    losses = [2.0] * 20 + [math.nan] * 10
    [first] = guardian.decide(observe(losses, lr=0.1)).proposals
    assert isinstance(first.command, UpdateOptimizer)
    assert first.command.lr == pytest.approx(0.01)
    cut = [applied(30, 0.01, first.rationale)]
    assert guardian.decide(observe([*losses, *[math.nan] * 15], commands=cut)).proposals == []
    [last] = guardian.decide(observe([*losses, *[math.nan] * 31], commands=cut)).proposals
    assert last.command == StopTraining(save=False)
    assert "restart with a lower rate" in last.rationale


def test_a_cut_rate_is_not_raised_again() -> None:
    losses = [4.7 - 0.0015 * i for i in range(80)]
    guardian = load_policy("guardian")
    assert guardian.decide(observe(losses, max_steps=400)).proposals[0].rationale.startswith("raise: ")
    cut = [applied(2, 1e-3, "cut_far: x")]
    assert guardian.decide(observe(losses, max_steps=400, commands=cut)).proposals == []
