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


def decide(observation: Observation, name: str = "lookahead") -> Decision:
    return load_policy(name).decide(observation)


def asked(observation: Observation, name: str = "lookahead") -> Probe | None:
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


def test_it_waits_for_its_time_and_twice_as_long_after_each_probe_in_vain() -> None:
    assert asked(at(49)) is None
    assert asked(at(249, probed(50, adopted=True))) is None
    assert asked(at(250, probed(50, adopted=True))) is not None
    assert asked(at(449, probed(50, adopted=False))) is None
    assert asked(at(450, probed(50, adopted=False))) is not None
    vain = [probed(step, adopted=False) for step in range(10, 410, 50)]
    assert asked(at(360 + 1599, *vain)) is None
    assert asked(at(360 + 1600, *vain)) is not None
    assert asked(at(560, *vain[:7], probed(360, adopted=True))) is not None


def test_a_refused_probe_counts_as_one_in_vain() -> None:
    assert asked(at(449, probed(50, False, State.REJECTED))) is None
    assert asked(at(450, probed(50, False, State.REJECTED))) is not None


def test_a_plateau_is_not_waited_for_but_probes_keep_their_distance() -> None:
    finding = Finding(kind="plateau", severity="warning", metric="step_loss", step=120, summary="flat")
    assert asked(at(130, probed(50, adopted=False), findings=[finding])) is not None
    assert asked(at(130, probed(90, adopted=False), findings=[finding])) is None
    assert asked(at(300, probed(130, adopted=False), findings=[finding])) is None, "it has looked since"


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
