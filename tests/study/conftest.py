"""A study whose runs take no process of their own, and a language model after a script."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from agenttune.config import Config
from agenttune.errors import BudgetSpent
from agenttune.launch import Plan, make_plan
from agenttune.launch.study.planner import Planner
from agenttune.launch.study.rounds import Launched, Rounds
from agenttune.launch.study.state import Study
from agenttune.launch.study.study import read_study, study_started, take_up
from agenttune.launch.study.study_log import StudyJournal
from agenttune.launch.supervisor import claim_folder, create_run
from agenttune.llm.prompts import Prompts
from agenttune.protocol.events import StatusChanged
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, PromptUsed, Purpose, Usage
from tests.study.trainer import train

TRAINER = Path(__file__).with_name("trainer.py")
Answer = str | Exception
LR = "rounds: {count: 2, references: [], parameters: {lr: {argument: --lr, minimum: 1.0e-4, maximum: 1.0}}}\n"


@dataclass
class ScriptedModel:
    """Answers in order; an exception is raised instead."""

    answers: list[Answer]
    asked: list[Sequence[ChatMessage]] = field(default_factory=list)
    schemas: list[dict[str, Any] | None] = field(default_factory=list)
    down: str = ""
    name: str = "scripted"
    protocol: Literal["tools", "json", "text"] = "json"
    spent: Any = None

    def unavailable(self) -> str:
        return self.down

    def check_capabilities(self, policy: str) -> list[ModelCalled]:
        return []

    def ask(
        self,
        messages: Sequence[ChatMessage],
        *,
        policy: str,
        purpose: Purpose,
        tools: Sequence[Any] = (),
        schema: dict[str, Any] | None = None,
        prompts: Sequence[PromptUsed] = (),
        temperature: float | None = None,
    ) -> ModelCalled:
        self.asked.append(messages)
        self.schemas.append(schema)
        if not self.answers:
            raise BudgetSpent("the cap of max_calls is reached")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return called(answer, policy, purpose, messages, prompts)


def called(
    answer: str, policy: str, purpose: Purpose, messages: Sequence[ChatMessage], prompts: Sequence[PromptUsed] = ()
) -> ModelCalled:
    return ModelCalled(
        policy=policy,
        purpose=purpose,
        model="scripted",
        endpoint="http://127.0.0.1:1",
        protocol="json",
        messages=list(messages),
        prompts=list(prompts),
        answer=ChatMessage(role="assistant", content=answer),
        usage=Usage(input_tokens=90, output_tokens=10),
        usd=0.001,
    )


def in_process(plan: Plan, launched: Launched) -> int:
    """Carries out a run here and now."""
    run = create_run(plan)
    launched(run.run_id)
    args = plan.config.run.args
    lr = float(args[len(args) - 1 - args[::-1].index("--lr") + 1]) if "--lr" in args else 0.1
    train(run.log, lr, 3)
    run.log.close()
    return 0


def crashing(plan: Plan, launched: Launched) -> int:
    run = create_run(plan)
    launched(run.run_id)
    run.log.append(StatusChanged(status="failed", reason="the script ended with exit code 1"))
    run.log.close()
    return 1


@dataclass
class Lab:
    """A folder with a config file, and a study carried out in this process."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def write(self, more: str = LR, args: str = "[--lr, 0.1]") -> None:
        text = f"""\
            run: {{script: {TRAINER}, args: {args}, name: demo}}
            policy: noop
            server: {{port: 0}}
            """
        (self.folder / "config.yaml").write_text(textwrap.dedent(text) + more, encoding="utf-8")

    @property
    def plan(self) -> Plan:
        return make_plan(self.folder / "config.yaml")

    @property
    def config(self) -> Config:
        return self.plan.config

    def new(self) -> StudyJournal:
        folder = claim_folder(self.plan.runs_dir, "demo-study")[1]
        journal = StudyJournal(folder)
        journal.append(study_started(self.plan, folder.name))
        return journal

    def again(self, folder: Path) -> StudyJournal:
        journal = StudyJournal(folder)
        try:
            take_up(self.plan, journal)
        except BaseException:
            journal.close()
            raise
        return journal

    def go(
        self,
        journal: StudyJournal,
        model: ScriptedModel | str,
        carry_out: Callable[[Plan, Launched], int] = in_process,
    ) -> int:
        """Carry on with a study; closes its journal."""
        config = self.config
        planner: Planner | str = model if isinstance(model, str) else self.planner(model, journal, config)
        try:
            return Rounds(self.plan, journal, planner, carry_out, self.said.append).go()
        finally:
            journal.close()

    def planner(self, model: ScriptedModel, journal: StudyJournal, config: Config) -> Planner:
        parameters = config.rounds.parameters
        planner = Planner(model, Prompts(self.folder), config.goal, parameters, config.run.args, journal.append)
        planner.check()
        return planner

    def study(self, journal: StudyJournal) -> Study:
        return read_study(journal.folder)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    found = Lab(tmp_path)
    found.write()
    return found
