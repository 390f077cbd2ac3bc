"""An agent beside a run that somebody else started: it comes, follows another policy, and goes when it is told to."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from agenttune.protocol.events import Event, PolicyRequested
from agenttune.store.run_log import RunLog
from agenttune.views.event_lines import lines_of
from tests import warm
from tests.cli.conftest import PATIENCE_S, Launched, Project, Result, agenttune, environment, wait_for

FOREVER = "[]"


@dataclass
class Live:
    """A run of somebody else's, with its control server."""

    project: Project
    launched: Launched
    url: str
    agents: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        return self.launched.info().run_id

    def attach(self, *options: str) -> subprocess.Popen[str]:
        """Start `agenttune attach` and wait until it says in the log that it is there."""
        before = len(self.launched.events("policy_attached"))
        agent = warm.Popen(
            [sys.executable, "-m", "agenttune", "attach", *(options or [self.url])],
            cwd=self.project.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.agents.append(agent)
        wait_for("the agent", lambda: len(self.launched.events("policy_attached")) > before or agent.poll())
        assert agent.poll() is None, agent.communicate()[0]
        return agent

    def say(self, *words: str) -> Result:
        return agenttune(words[0], self.url, *words[1:], cwd=self.project.folder)

    def policies(self) -> list[str]:
        """What happened to policies, in order."""
        with contextlib.closing(RunLog.open(Path(self.launched.info().path))) as log:
            events = log.events(kinds=["policy_attached", "policy_detached", "policy_requested"])
        return [f"{e.body.kind.removeprefix('policy_')} {e.body.model_dump()['policy']}" for e in events]


@pytest.fixture
def live(project: Project) -> Iterator[Live]:
    """A run without an agent: the one that came with it was sent away."""
    project.write(args=FOREVER)
    launched = project.start()
    launched.wait_for_event("policy_attached")
    launched.wait_for_step(1)
    words = launched.child("attach").cmdline()
    yield (found := Live(project, launched, words[words.index("attach") + 1]))
    for agent in found.agents:
        if agent.poll() is None:
            agent.kill()
        agent.communicate(timeout=PATIENCE_S)


def test_an_agent_is_sent_away_and_another_attached_and_swapped(live: Live) -> None:
    first = live.launched.child("attach")
    gone = live.say("detach")
    assert (gone.code, gone.out) == (0, f"noop left run {live.run_id}\n")
    wait_for("the agent's end", lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)

    nobody = live.say("detach")
    assert nobody.code == 2
    assert f"no policy is attached to run {live.run_id}; attach one with: agenttune attach {live.url}" in nobody.err

    agent = live.attach("latest", "--policy", "guardian", "--runs-dir", str(live.project.runs_dir))
    swapped = live.say("swap", "--policy", "noop", "--run", live.run_id)
    assert (swapped.code, swapped.out) == (0, f"noop attached to run {live.run_id}\n")
    by_name = agenttune("detach", "latest", "--runs-dir", str(live.project.runs_dir), cwd=live.project.folder)
    assert by_name.code == 0, by_name.err
    assert agent.wait(PATIENCE_S) == 0
    told = agent.communicate()[0]
    assert f"guardian beside run {live.run_id} at {live.url}" in told
    for line in ("policy: guardian attached", "policy: noop attached", "policy: noop left"):
        assert line in told, "what it did stands in a file too"
    assert live.policies() == [
        *("attached noop", "requested None", "detached noop"),
        *("attached guardian", "requested noop", "detached guardian", "attached noop"),
        *("requested None", "detached noop"),
    ]
    info = live.launched.info()
    assert info.is_live
    assert live.launched.events("note_added") == [], "nothing was started again"


def test_a_request_that_cannot_be_met_is_refused_with_the_reason_and_the_old_policy_stays(live: Live) -> None:
    for policy in ("", " ", "a\nb", "\x1b[2J", "x" * 1001):
        refused = live.say("swap", "--policy", policy)
        assert refused.code == 2
        assert "policy" in refused.err
        assert "\x1b" not in refused.err
    unknown = live.say("swap", "--policy", "noop", "--run", "nope")
    assert unknown.code == 2
    assert "nope" in unknown.err
    assert live.policies() == ["attached noop"], "what makes no sense leaves no trace"

    (live.project.folder / "broken.yaml").write_text("type: noop\nrulez: []\n", encoding="utf-8")
    for name, problem in (("nope", "no policy 'nope'"), ("broken.yaml", "broken.yaml:2: rulez: unknown key")):
        refused = live.say("swap", "--policy", name)
        assert refused.code == 2
        assert "noop stays" in refused.err
        assert problem in refused.err
    assert "detached noop" not in live.policies()


def test_an_agent_killed_after_a_swap_goes_on_with_the_new_policy(live: Live) -> None:
    (live.project.folder / "mine.yaml").write_text("type: noop\n", encoding="utf-8")
    assert live.say("swap", "--policy", "mine.yaml").code == 0
    killed = live.launched.child("attach")
    killed.kill()
    wait_for("its successor", lambda: live.policies()[-1] == "attached mine" and len(live.policies()) == 5)
    assert live.policies() == [
        *("attached noop", "requested mine.yaml", "detached noop", "attached mine", "attached mine")
    ]


def test_a_request_is_a_line_for_a_person() -> None:
    body = PolicyRequested(policy="llm", author="ann")
    [line] = lines_of(Event(seq=1, at_s=0.0, step=3, body=body), lambda command_id: None)
    assert (line.mark, line.text) == ("asked", "ann: policy llm from here on")
