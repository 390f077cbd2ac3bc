"""Policies made of others: who decides when, what is let through, and that a wrong file says where it is wrong."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agenttune.config import GoalSettings, LlmSettings
from agenttune.errors import ConfigError
from agenttune.policy.base import Decision, Draft, PolicyContext
from agenttune.policy.load import load_policy, open_policy
from agenttune.policy.rules import RulePolicy, RuleSettings
from agenttune.policy.wrappers.alternatives import Escalation, Fallback, occasion_of
from agenttune.policy.wrappers.availability import Availability
from agenttune.policy.wrappers.simple import Background, Patience, Shadow
from agenttune.policy.wrappers.wrapper import unavailable, walk
from agenttune.protocol.commands import SaveCheckpoint, UpdateOptimizer
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord
from tests.policy.conftest import applied, decay, observe

CUT = Draft(UpdateOptimizer(lr=0.01), "too high")
SAVE = Draft(SaveCheckpoint(), "to be safe")
NOTHING = Decision(reason="nothing to do")
ENVIRON: dict[str, str] = {}


@dataclass
class Told:
    """Answers as it is told, over and over the last; may be unavailable; strict about being asked then."""

    answers: list[Decision]
    name: str = "told"
    why_not: str = ""
    notice: str = ""
    asked: list[Observation] = field(default_factory=list)

    def unavailable(self) -> str:
        return self.why_not

    def decide(self, observation: Observation) -> Decision:
        assert not self.why_not, "asked although it is unavailable"
        self.asked.append(observation)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def wants(*drafts: Draft, reason: str = "because") -> Decision:
    return Decision(list(drafts), reason)


def at(step: int, *woken_by: str) -> Observation:
    return observe([1.0] * step).model_copy(update={"woken_by": list(woken_by)})


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def situations() -> list[Observation]:
    """What the guardian's own tests show it, and some that it leaves alone."""
    rising = [4.7 - 0.0015 * i for i in range(80)]
    nan = [2.0] * 20 + [math.nan] * 10
    cut = applied(30, 0.01, "cut_non_finite: the loss is NaN")
    divergence = Finding(kind="divergence", severity="critical", metric="step_loss", step=40, summary="x")
    return [
        observe([]),
        observe(decay(200)),
        observe(rising, max_steps=400),
        observe(rising, max_steps=400, commands=[applied(10, 0.01, "cut: x")]),
        observe(nan, lr=0.1),
        observe([*nan, *[math.nan] * 15], commands=[cut]),
        observe([*nan, *[math.nan] * 31], commands=[cut]),
        observe([2.0] * 30 + [50.0 + i for i in range(20)], lr=0.5),
        observe([2.0] * 30 + [50.0 + i for i in range(20)], lr=0.5, commands=[applied(45, 0.05, "cut_far: x")]),
        observe(decay(60), findings=[divergence]),
    ]


def test_without_a_model_the_default_decides_exactly_as_the_guardian(tmp_path: Path) -> None:
    default = load_policy("default", PolicyContext(tmp_path, environ=ENVIRON))
    guardian = load_policy("guardian", PolicyContext(tmp_path))
    seen = situations()
    seen += [o.model_copy(update={"woken_by": [why]}) for o in seen for why in ("20 steps", "evaluation at step 5")]
    decisions = [default.decide(o) for o in seen]
    assert decisions == [guardian.decide(o) for o in seen]
    assert len([d for d in decisions if d.proposals]) >= 12


def test_the_default_says_in_one_line_that_it_goes_by_rules_alone(tmp_path: Path) -> None:
    without = open_policy("default", PolicyContext(tmp_path, environ=ENVIRON))
    assert "llm.model" in without.notice
    assert without.notice.endswith("running on rules alone (guardian)")
    assert "\n" not in without.notice
    assert without.details["notice"] == without.notice
    assert {Path(path).name for path in without.details["parts"]} == {"guardian.yaml", "llm.yaml"}
    llm = LlmSettings(model="some", base_url="http://127.0.0.1:9/v1")
    assert open_policy("default", PolicyContext(tmp_path, llm=llm, environ=ENVIRON)).notice == ""


@pytest.mark.parametrize("name", ["default", "llm_or_rules", "llm_shadow", "llm_reviewed"])
def test_every_shipped_composite_loads_with_and_without_a_model(name: str, tmp_path: Path) -> None:
    for llm in (LlmSettings(), LlmSettings(model="some", base_url="http://127.0.0.1:9/v1")):
        loaded = open_policy(name, PolicyContext(tmp_path, GoalSettings(), llm, environ=ENVIRON))
        assert loaded.policy.name == name
        assert bool(loaded.notice) is (llm.model is None)


def test_the_first_that_proposes_acts_and_the_next_is_asked_otherwise() -> None:
    first, second = Told([wants(CUT), NOTHING], "first"), Told([wants(SAVE)], "second")
    both = Escalation("both", (first, second))
    assert both.decide(at(10)).proposals == [CUT]
    assert second.asked == []
    decision = both.decide(at(20))
    assert decision.proposals == [SAVE]
    assert decision.reason == "nothing to do; because"


@pytest.mark.parametrize(
    ("woken_by", "occasion"),
    [
        ("finding divergence", "finding"),
        ("evaluation at step 20", "evaluation"),
        ("20 steps", "cadence"),
        ("note of ann: try a lower rate", "answer"),
    ],
)
def test_escalation_is_limited_to_occasions(woken_by: str, occasion: str) -> None:
    assert occasion_of(woken_by) == occasion
    for wanted in ("finding", "evaluation", "cadence", "answer"):
        second = Told([NOTHING], "second")
        escalation = Escalation("e", (Told([NOTHING]), second), frozenset([wanted]))
        escalation.decide(at(20, woken_by))
        assert bool(second.asked) is (wanted == occasion)


BLOWN_UP = [*decay(200), *([50.0] * 24)]
RULE = RuleSettings.model_validate(
    {
        "name": "cut",
        "when": 'loss.level > 3 * loss.best or found.plateau == "warning"',
        "do": {"command": "update_optimizer", "lr": "=lr * 0.1"},
        "because": "it rose to {loss.level:.3g}",
    }
)


def urgent(model: Told) -> Escalation:
    return Escalation("default", (RulePolicy("rules", (RULE,)), model), first_acts_on=frozenset({"critical"}))


def run(losses: list[float], *commands: CommandRecord) -> Observation:
    seen = observe(losses, lr=0.1, commands=commands)
    return seen.model_copy(update={"capabilities": ["update_optimizer", "load_checkpoint"], "woken_by": ["20 steps"]})


def test_rules_beside_a_model_do_only_what_cannot_wait() -> None:
    model = Told([wants(SAVE)], "model")
    rules = RulePolicy("rules", (RULE,)).decide(run(BLOWN_UP)).proposals
    assert rules, "the rules act here"
    assert urgent(model).decide(run(BLOWN_UP)).proposals == rules
    assert model.asked == []
    assert urgent(model).decide(run(decay(200))).proposals == [SAVE]
    model.why_not = "its endpoint is down"
    assert urgent(model).decide(run(BLOWN_UP)).proposals == rules


def test_rules_hold_back_while_a_change_of_the_models_is_on_trial() -> None:
    model = Told([wants(SAVE)], "model")
    mine = run(BLOWN_UP, applied(210, 0.05, "the loss has stopped"))
    decision = urgent(model).decide(mine)
    assert decision.proposals == [SAVE]
    assert "rules holds back: update_optimizer of step 210 is still being measured" in decision.reason
    long_ago = run(BLOWN_UP, applied(60, 0.05, "the loss has stopped"))
    assert model.asked == [mine]
    assert urgent(model).decide(long_ago).proposals != [SAVE]
    model.why_not = "the budget is spent"
    assert urgent(model).decide(mine).proposals != [SAVE], "alone, they do what there is to do"


def test_what_the_first_acts_on_is_a_setting_of_its_file(tmp_path: Path) -> None:
    write(tmp_path, "mine.yaml", "type: escalation\npolicies: [guardian, llm]\nfirst_acts_on: [critical, warning]\n")
    policy = load_policy(str(tmp_path / "mine.yaml"))
    assert isinstance(policy, Escalation)
    assert sorted(policy.first_acts_on or ()) == ["critical", "warning"]
    write(tmp_path, "wrong.yaml", "type: escalation\npolicies: [guardian, llm]\nfirst_acts_on: [grave]\n")
    with pytest.raises(ConfigError, match="first_acts_on"):
        load_policy(str(tmp_path / "wrong.yaml"))


def test_rules_go_on_alone_while_the_model_is_away_and_it_is_said_once_each_way() -> None:
    rules, model = Told([NOTHING], "rules"), Told([wants(SAVE)], "model")
    both = Escalation("both", (rules, model))
    reasons = [both.decide(at(10)).reason]
    model.why_not = "the cap of 3 calls is reached"
    reasons += [both.decide(at(20)).reason, both.decide(at(30)).reason]
    assert unavailable(both) == ""
    model.why_not = ""
    last = both.decide(at(40))
    reasons.append(last.reason)
    assert last.proposals == [SAVE]
    assert "model is left out: the cap of 3 calls is reached; running on" in reasons[1]
    assert reasons[2] == "nothing to do"
    assert "model is asked again" in reasons[3]
    assert "again" not in both.decide(at(50)).reason


def test_a_fallback_decides_while_the_other_cannot_and_gives_back() -> None:
    model, rules = Told([NOTHING], "model"), load_policy("guardian")
    fallback = Fallback(model, rules, title="both")
    trouble = situations()[4]
    assert fallback.decide(trouble).proposals == []
    model.why_not = "the endpoint does not answer"
    first, second = fallback.decide(trouble), fallback.decide(trouble)
    assert first.reason.startswith("model is left out: the endpoint does not answer; running on rules alone (guardian)")
    assert first.proposals == second.proposals == rules.decide(trouble).proposals
    assert "left out" not in second.reason
    assert unavailable(fallback) == ""
    model.why_not = ""
    assert fallback.decide(trouble).reason == "model is asked again; nothing to do"


def test_what_was_lacking_from_the_start_is_a_notice_and_no_news() -> None:
    missing = Told([NOTHING], "model", why_not="no language model", notice="no language model")
    fallback = Fallback(missing, load_policy("guardian"))
    assert fallback.notice == "no language model; running on rules alone (guardian)"
    assert fallback.decide(at(10)) == load_policy("guardian").decide(at(10))
    spent = Availability(Told([NOTHING], "model", why_not="the budget is spent"))
    assert "the budget is spent" in spent.check(), "what is no notice must be said at the first decision"


def test_patience_waits_until_the_same_kind_was_wanted_in_a_row() -> None:
    inner = Told([wants(CUT), wants(CUT), wants(SAVE), NOTHING, wants(CUT), wants(CUT), wants(CUT)])
    patient = Patience(inner, times=3, steps=100)
    decisions = [patient.decide(at(step)) for step in range(10, 80, 10)]
    assert [bool(d.proposals) for d in decisions] == [False] * 6 + [True]
    assert "held back: asked for 1 of 3 times" in decisions[0].reason
    assert decisions[-1].proposals == [CUT]


def test_patience_forgets_what_was_wanted_long_ago() -> None:
    patient = Patience(Told([wants(CUT)]), times=2, steps=50)
    assert [bool(patient.decide(at(step)).proposals) for step in (10, 100, 120)] == [False, False, True]


def test_patience_is_not_impatient_with_a_model_that_still_thinks() -> None:
    gate = threading.Event()
    slow = Background(Slow(gate))
    patient = Patience(slow, times=2, steps=100)
    first = patient.decide(at(10))
    assert patient.decide(at(20)).skipped, "still thinking is no answer"
    gate.set()
    assert first.later is not None
    assert first.later.result(5).proposals == []
    second = patient.decide(at(30))
    assert second.later is not None
    assert second.later.result(5).proposals == [CUT]


@dataclass
class Slow:
    gate: threading.Event
    name: str = "slow"

    def decide(self, observation: Observation) -> Decision:
        assert self.gate.wait(10)
        return wants(CUT)


def test_wrappers_reach_into_answers_that_come_later() -> None:
    answer: Future[Decision] = Future()
    late = Told([Decision(reason="thinking", later=answer)], "late")
    last = Told([wants(SAVE)], "last")
    shadowed_then_last = Escalation("all", (Shadow(late), last))
    decision = shadowed_then_last.decide(at(10))
    assert decision.later is not None
    assert decision.proposals == []
    assert last.asked == []
    answer.set_result(wants(CUT, reason="the model"))
    final = decision.later.result(5)
    assert final.shadowed == [CUT]
    assert final.proposals == [SAVE]
    assert final.reason == "in shadow: the model; because"


def test_an_error_in_a_late_answer_reaches_whoever_waits() -> None:
    answer: Future[Decision] = Future()
    decision = Shadow(Told([Decision(later=answer)])).decide(at(10))
    answer.set_exception(ValueError("broken"))
    assert decision.later is not None
    with pytest.raises(ValueError, match="broken"):
        decision.later.result(5)


NESTED = """type: fallback
policy:
  type: escalation
  policies:
    - guardian
    - type: shadow
      policy:
        type: patience
        times: 3
        policy: {type: cooldown, steps: 30, policy: random}
to: noop
"""


def test_policies_nest_inline_and_by_name(tmp_path: Path) -> None:
    loaded = open_policy(str(write(tmp_path, "nested.yaml", NESTED)), PolicyContext(tmp_path))
    names = [type(part).__name__ for part in walk(loaded.policy)]
    assert names == [
        *("Fallback", "Escalation", "RulePolicy", "Shadow", "Patience", "Cooldown", "RandomPolicy", "NoopPolicy")
    ]
    assert loaded.policy.name == "nested"
    assert {Path(path).stem for path in loaded.parts} == {"guardian", "random", "noop"}


def test_a_policy_beside_the_file_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "quiet.yaml", "type: noop\n")
    outer = write(tmp_path / "own", "outer.yaml", "type: cooldown\nsteps: 5\npolicy: quiet.yaml\n")
    assert [part.name for part in walk(load_policy(str(outer), PolicyContext(tmp_path)))] == ["outer", "quiet"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            NESTED.replace("times: 3", "tims: 3"),
            ":9: policy.policies.1.policy.tims: unknown key; did you mean 'times'?",
        ),
        (NESTED.replace("steps: 30", "steps: 0"), ":10: policy.policies.1.policy.policy.steps: "),
        (
            NESTED.replace("- guardian", "- gardian"),
            ":5: policy.policies.0: no policy 'gardian'; did you mean 'guardian'?; there are: ",
        ),
        (NESTED.replace("type: shadow", "type: shado"), ":6: policy.policies.1.type: unknown type 'shado'; did you"),
        ("type: shadow\n", ":1: policy: this key is required"),
        ("type: shadow\npolicy: 3\n", ":2: policy: give the name or the path of a policy"),
        ("type: escalation\npolicies: [noop]\nescalate_on: [finding, cadense]\n", ":3: escalate_on.1: "),
        ("type: second_opinion\npolicy: noop\nreviewer: {modle: x}\n", ":3: reviewer"),
    ],
)
def test_a_mistake_inside_is_told_with_file_line_and_key(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, "wrong.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_policy(str(path), PolicyContext(tmp_path))
    assert str(caught.value).startswith(f"{path}{said}")


def test_a_circle_is_refused_with_the_way_round(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "type: shadow\npolicy: b.yaml\n")
    write(tmp_path, "b.yaml", "type: cooldown\nsteps: 3\npolicy: a.yaml\n")
    with pytest.raises(ConfigError) as caught:
        load_policy("a.yaml", PolicyContext(tmp_path))
    assert f"{tmp_path / 'b.yaml'}:3: policy: a policy cannot be a part of itself" in str(caught.value)
    assert "a.yaml -> b.yaml -> a.yaml" in str(caught.value)
