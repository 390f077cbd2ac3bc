"""Policies and detectors of the user's own: found, made with their parameters, and kept from doing harm."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agenttune.config import load_config, plugins
from agenttune.config.plugins import PluginUse
from agenttune.detectors import Detector, PluginDetector, detect
from agenttune.errors import ConfigError
from agenttune.policy.base import PolicyContext
from agenttune.policy.load import context_of, identity_of, load_policy, open_policy
from agenttune.policy.plugins import find_detector
from agenttune.policy.wrappers.wrapper import unavailable, walk
from tests.llm_policy.fakes import FakeReader
from tests.plugin_files import install, write_plugins
from tests.policy.conftest import observe

ROUGH = observe([1.0] * 15)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_plugins(tmp_path)


def checked(folder: Path) -> PolicyContext:
    return PolicyContext(folder, environ={})


def live(folder: Path) -> PolicyContext:
    """As in an agent beside a run."""
    return PolicyContext(folder, reader=FakeReader(ROUGH), environ={})


def policy_file(folder: Path, text: str) -> str:
    path = folder / "p.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_class_in_a_file_is_a_policy_with_the_defaults_of_its_parameters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = open_policy("./mine.py:Halve", checked(folder))
    [draft] = loaded.policy.decide(ROUGH).proposals
    assert (loaded.policy.name, draft.command.arguments()["lr"]) == ("Halve", 0.5e-3)
    assert loaded.details["path"] == f"{folder / 'mine.py'}:Halve"
    assert identity_of("./mine.py:Halve", folder) == loaded.details["path"]  # an agent that died takes it up again
    assert open_policy(loaded.details["path"], checked(folder)).sha256 == loaded.sha256 != ""
    assert capsys.readouterr().out == ""  # what it prints spoils nobody's JSON


def test_parameters_stand_in_a_policy_file_and_are_checked_with_file_line_and_key(folder: Path) -> None:
    text = "type: ./mine.py:Halve\nfactor: 0.1\ngate: {cooldown_steps: 3}\n"
    loaded = open_policy(policy_file(folder, text), checked(folder))
    assert loaded.policy.name == "p"
    assert loaded.policy.decide(ROUGH).proposals[0].command.arguments()["lr"] == pytest.approx(1e-4)
    assert loaded.gate is not None
    assert str(folder / "mine.py") in loaded.parts
    with pytest.raises(ConfigError) as caught:
        load_policy(policy_file(folder, "type: ./mine.py:Halve\nfactor: 2\nat_stp: 3\n"), checked(folder))
    lines = caught.value.message.splitlines()
    assert lines[0].endswith("p.yaml:2: factor: must be less than 1 (got 2)")
    assert "p.yaml:3: at_stp: unknown key; did you mean 'at_step'?" in lines[1]


def test_settings_may_be_a_model_and_the_context_is_given(folder: Path) -> None:
    policy = load_policy(policy_file(folder, "type: ./mine.py:WithSettings\nlimit: 7\n"), checked(folder))
    assert policy.decide(ROUGH).reason == "a 7 eval_loss"
    with pytest.raises(ConfigError, match="unknown key; did you mean 'mode'"):
        load_policy(policy_file(folder, "type: ./mine.py:WithSettings\nmod: b\n"), checked(folder))


def test_modules_beside_a_file_can_be_imported(folder: Path) -> None:
    assert load_policy("./beside.py:Beside", checked(folder)).decide(ROUGH).reason == "nothing to do"


@pytest.mark.parametrize("packaged", [False, True])
def test_each_file_gets_the_modules_beside_itself_though_other_folders_have_the_same_names(
    tmp_path: Path, packaged: bool
) -> None:
    def put(name: str) -> Path:
        folder = tmp_path / name
        helper = folder / ("kit/__init__.py" if packaged else "kit.py")
        helper.parent.mkdir(parents=True)
        helper.write_text(f"NAME = {name!r}\n", encoding="utf-8")
        code = f"# {name}\nfrom kit import NAME\nfrom agenttune.policy import Policy, Decision\n\nclass P(Policy):\n"
        body = "    name = NAME\n\n    def decide(self, observation):\n        return Decision([], reason=NAME)\n"
        (folder / "p.py").write_text(code + body, encoding="utf-8")
        return folder

    folders = [put(name) for name in ("one", "two", "three")]
    loaded = [load_policy("./p.py:P", checked(folder)) for folder in folders]
    assert [policy.decide(ROUGH).reason for policy in loaded] == ["one", "two", "three"]
    assert load_policy("./p.py:P", checked(folders[0])).decide(ROUGH).reason == "one"


NAMED_WRONGLY = {
    "policy: ./gone.py:Any": "config.yaml:2: policy: there is no file",
    "policy: guardiam": "config.yaml:2: policy: no policy 'guardiam'",
    "policy: p.yaml": "p.yaml:4: policies.1: there is no file",
    "policy: noop\ndetectors:\n- ./mine.py:Odd\n- ./gone.py:Any": "config.yaml:5: detectors.1: there is no file",
    "policy: noop\ndetectors:\n- {type: ./gone.py:Any}": "config.yaml:4: detectors.0.type: there is no file",
}


@pytest.mark.parametrize("text", NAMED_WRONGLY)
def test_a_class_named_wrongly_is_told_with_the_line_that_names_it(folder: Path, text: str) -> None:
    (folder / "p.yaml").write_text("type: escalation\npolicies:\n- guardian\n- ./gone.py:Any\n", encoding="utf-8")
    config = folder / "config.yaml"
    config.write_text(f"run: {{script: mine.py}}\n{text}\n", encoding="utf-8")
    settings = load_config(config)
    with pytest.raises(ConfigError) as caught:
        open_policy(settings.policy, context_of(settings, config), (config, ("policy",)))
    assert NAMED_WRONGLY[text] in caught.value.message


WRONG = {
    "./mine.py": "name a class in it: ./mine.py:Plain, ./mine.py:Halve",
    "./mine.py:Halv": "has no class 'Halv'; did you mean 'Halve'?",
    "./mine.py:Ha lve": "did you mean 'Halve'?",
    "./mine.py:NotOne": "NotOne is no policy: it must be a class that extends agenttune.policy.Policy",
    "./mine.py:Odd": "Odd is no policy",
    "./mine.py:print": "has no class 'print'",
    "./mine.py:Untyped": "x has no type; write such as x: float = 0.5",
    "./mine.py:Greedy": "gate is a key that every file has; give the parameter another name",
    "./mein.py:Plain": "did you mean 'mine.py'?",
    "./folder:Plain": "is a folder; name a Python file and a class in it",
    "./notes.txt:Plain": "is no Python file",
    "mine": "or a class of your own as ./mine.py:Mine",
}


@pytest.mark.parametrize("reference", WRONG)
def test_what_is_named_wrongly_is_told_with_how_to_mend_it(folder: Path, reference: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(reference, checked(folder))
    assert WRONG[reference] in caught.value.message
    assert "\n" not in caught.value.message


UNUSABLE = {
    "./broken.py:Any": "RuntimeError: at module level (broken.py:1)",
    "./exits.py:Any": "SystemExit: 3 (exits.py:2)",
    "./syntax.py:Any": "SyntaxError: invalid syntax (syntax.py, line 1)",
    "./mine.py:Broken": "RuntimeError: no model file (mine.py:",
    "./mine.py:Undecided": "Undecided does not define decide, which every policy must",
    "./hangs.py:Any": "it was not ready after 0.2 s",
    "./gone.py:Any": "there is no file",
}


@pytest.mark.parametrize("reference", UNUSABLE)
def test_beside_a_run_code_that_cannot_be_used_is_left_out_and_the_rules_go_on(
    folder: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "IMPORT_LIMIT_S", 0.2 if "hangs" in reference else 60.0)
    (folder / "p.yaml").write_text(f"type: escalation\npolicies: [{reference}, guardian]\n", encoding="utf-8")
    loaded = open_policy("p.yaml", live(folder))
    assert UNUSABLE[reference] in loaded.notice
    assert "running on rules alone (guardian)" in loaded.notice
    trouble = observe([1.0] * 40 + [float("nan")] * 3)
    assert loaded.policy.decide(trouble).proposals == load_policy("guardian").decide(trouble).proposals != []


FAILING = {
    "Raises": "ValueError: oh no",
    "Exits": "SystemExit: 3",
    "Nonsense": "TypeError: decide returned 42, not a Decision of agenttune.policy",
    "NoDrafts": "not a Draft of agenttune.policy",
    "NoCommand": "not one of agenttune.protocol.commands",
    "WrongValue": "UpdateOptimizer: lr must be greater than or equal to 0 (got -3.0)",
}


@pytest.mark.parametrize("name", FAILING)
def test_a_policy_that_fails_decides_nothing_and_the_next_is_asked(folder: Path, name: str) -> None:
    text = f"type: escalation\npolicies:\n- ./mine.py:{name}\n- {{type: ./mine.py:Halve, at_step: 5}}\n"
    decision = load_policy(policy_file(folder, text), live(folder)).decide(ROUGH)
    assert FAILING[name] in decision.faults[0]
    assert len(decision.proposals) == 1


def test_installed_names_are_types_and_policies_and_take_nothing_shipped_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"halve": "mine:Halve", "guardian": "mine:Raises", "rules": "mine:Raises"}
    install(folder, monkeypatch, {"agenttune.policies": names})
    assert load_policy("halve", checked(folder)).decide(ROUGH).proposals
    policy = load_policy(policy_file(folder, "type: halve\nat_step: 20\n"), checked(folder))
    assert policy.decide(ROUGH).reason == "not now"
    assert load_policy("guardian", checked(folder)).decide(ROUGH).faults == []
    with pytest.raises(ConfigError, match=r"rules: this key is required|this key is required"):
        load_policy(policy_file(folder, "type: rules\n"), checked(folder))
    with pytest.raises(ConfigError, match="unknown type 'halfe'; did you mean 'halve'"):
        load_policy(policy_file(folder, "type: halfe\n"), checked(folder))


def test_two_packages_with_one_name_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(folder, monkeypatch, {"agenttune.policies": {"halve": "mine:Halve"}})
    install(folder / "other", monkeypatch, {"agenttune.policies": {"halve": "mine:Plain"}}, package="others")
    with pytest.raises(ConfigError, match="both have a policy 'halve'; uninstall one of them"):
        load_policy("halve", checked(folder))


def test_a_changed_file_is_read_anew(folder: Path) -> None:
    before = open_policy("./mine.py:Plain", live(folder))
    text = (folder / "mine.py").read_text(encoding="utf-8").replace("nothing to do", "something else")
    (folder / "mine.py").write_text(text, encoding="utf-8")
    after = open_policy("./mine.py:Plain", live(folder))
    assert [loaded.policy.decide(ROUGH).reason for loaded in (before, after)] == ["nothing to do", "something else"]
    assert before.sha256 != after.sha256


def context_with(folder: Path, detectors: str, live: bool = False) -> PolicyContext:
    config = folder / "config.yaml"
    config.write_text(f"run: {{script: mine.py}}\ndetectors: {detectors}\n", encoding="utf-8")
    return context_of(load_config(config), config, FakeReader(ROUGH) if live else None)


def test_a_detector_finds_and_rules_ask_for_it_by_its_name(folder: Path) -> None:
    context = context_with(folder, "[{type: ./mine.py:Odd, every: 4}]")
    [finding] = [f for f in detect(ROUGH, own=context.detectors) if f.kind == "odd_step"]
    assert (finding.severity, finding.summary) == ("info", "step 15")
    rule = "{name: a, when: found.odd_step and since.odd_step > 3, do: {command: stop_training}, because: odd}"
    text = policy_file(folder, f"type: rules\nrules: [{rule}]\n")
    assert load_policy(text, replace(context, environ={})).decide(ROUGH).proposals
    with pytest.raises(ConfigError, match=r"unknown name 'found.odd_step'.*`detectors` of the config file"):
        load_policy(text, checked(folder))
    lookahead = policy_file(folder, "type: lookahead\non_findings: [odd_step]\n")
    assert [part.name for part in walk(load_policy(lookahead, context))] == ["p"]
    with pytest.raises(ConfigError, match="no detector finds 'odd_step'"):
        load_policy(lookahead, checked(folder))


def test_a_detector_that_fails_costs_its_own_findings_and_says_so_once(folder: Path) -> None:
    [shaky] = context_with(folder, "[./mine.py:Shaky]", live=True).detectors
    assert [f.kind for f in detect(observe([1.0] * 4), own=[shaky])] == ["shaky"]
    assert detect(observe([1.0] * 5), own=[shaky]) == []
    assert shaky.fault == "detector shaky failed at step 5: KeyError: 'series'"
    assert [f.kind for f in detect(observe([1.0] * 6), own=[shaky])] == ["shaky"]
    assert shaky.fault == ""


def test_no_finding_gets_past_its_checks(folder: Path) -> None:
    [evil] = context_with(folder, "[./mine.py:Evil]", live=True).detectors
    assert detect(ROUGH, own=[evil]) == []
    assert "Finding: severity is required" in evil.fault


def test_beside_a_run_a_detector_that_cannot_be_used_stops_no_rule(folder: Path) -> None:
    context = context_with(folder, "[./broken.py:Odd]", live=True)
    assert "at module level (broken.py:1)" in context.detectors[0].fault
    rules = "[{name: a, when: found.odd_step, do: {command: stop_training}, because: odd}]"
    policy = load_policy(policy_file(folder, f"type: rules\nrules: {rules}\n"), context)
    assert policy.decide(ROUGH).reason == "no rule applies"
    assert unavailable(policy) == ""


WRONG_DETECTORS = {
    "[./mine.py:Unnamed]": "Unnamed.name is None: it must be a name such as grad_noise",
    "[./mine.py:Loud]": "Loud.severity is 'catastrophe', not one of info, warning, critical",
    "[./mine.py:Spike]": "Spike.name is 'spike', and there is a detector of that name; choose another",
    "[./mine.py:Odd, ./mine.py:Odd]": "two detectors are called 'odd_step'",
    "[./mine.py:Plain]": "Plain is no detector: it must be a class that extends agenttune.detectors.Detector",
    "[{type: ./mine.py:Odd, evry: 3}]": "config.yaml:2: detectors.0.evry: unknown key; did you mean 'every'?",
    "[{every: 3}]": "config.yaml:2: detectors.0: give ./file.py:Class or an installed name",
    "[odd]": "no detector is called 'odd'; no installed package has a detector",
}


@pytest.mark.parametrize("entries", WRONG_DETECTORS)
def test_a_detector_that_is_named_wrongly_is_told_with_how_to_mend_it(folder: Path, entries: str) -> None:
    with pytest.raises(ConfigError) as caught:
        context_with(folder, entries)
    assert WRONG_DETECTORS[entries] in caught.value.message


HANGING = """
import threading
from agenttune.detectors import Detector
from agenttune.policy import Decision, Policy

GO_ON = threading.Event()


class Hangs(Policy):
    def decide(self, observation):
        GO_ON.wait(30)
        return Decision(reason="at last")


class Stares(Detector):
    name = "stares"
    summary = "never comes back"

    def detect(self, observation):
        GO_ON.wait(30)
        return []
"""


def go_on_of(*parts: object) -> threading.Event:
    """What the class in `hanging.py` waits for."""
    [event] = {vars(sys.modules[type(part).__module__]).get("GO_ON") for part in parts} - {None}
    assert isinstance(event, threading.Event)
    return event


def test_a_policy_that_hangs_holds_up_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agenttune.policy.plugins.PROMPT_S", 0.05)
    (folder / "hanging.py").write_text(HANGING, encoding="utf-8")
    policy = load_policy("./hanging.py:Hangs", live(folder))
    first, second = policy.decide(ROUGH), policy.decide(ROUGH)
    assert first.later is not None
    assert (second.skipped, second.reason) == (True, f"still thinking since step {ROUGH.step}")
    go_on_of(*walk(policy)).set()
    assert first.later.result(20).reason == "at last"
    assert policy.decide(ROUGH).reason in ("at last", f"thinking since step {ROUGH.step}")


def test_a_detector_that_hangs_is_told_of_and_left_out_until_it_returns(folder: Path) -> None:
    (folder / "hanging.py").write_text(HANGING, encoding="utf-8")
    made = find_detector(PluginUse("detector", "./hanging.py:Stares", (folder,))).make()
    inner: Detector = made._inner if isinstance(made, PluginDetector) else made
    detector = PluginDetector(inner, limit_s=0.05)
    assert list(detector.detect(ROUGH)) == []
    assert "it has not returned within 0.05 s, and is not asked again until it does" in detector.fault
    assert list(detector.detect(ROUGH)) == []
    go_on_of(inner).set()
    detector._look.join(20)  # type: ignore[union-attr]
    assert list(detector.detect(ROUGH)) == []
    assert detector.fault == ""


def test_what_a_detector_builds_wrongly_is_told_in_our_words(folder: Path) -> None:
    text = "from agenttune.detectors import Detector\nfrom agenttune.protocol.commands import UpdateOptimizer\n\n\n"
    text += "class Builds(Detector):\n    name = 'builds'\n    summary = 'builds'\n\n"
    text += "    def detect(self, observation):\n        UpdateOptimizer(lr=-3.0)\n"
    (folder / "builds.py").write_text(text, encoding="utf-8")
    detector = PluginDetector(find_detector(PluginUse("detector", "./builds.py:Builds", (folder,))).make())
    assert list(detector.detect(ROUGH)) == []
    assert "UpdateOptimizer: lr must be greater than or equal to 0 (got -3.0)" in detector.fault
    assert "pydantic" not in detector.fault
