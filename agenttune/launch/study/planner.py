"""A language model between runs: it proposes the start of a round, and writes down what a round has taught."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agenttune.config import GoalSettings
from agenttune.errors import ModelUnavailable, UserError
from agenttune.launch.study.records import Start
from agenttune.launch.study.start import REASONING_CHARACTERS, Parameters, check_start, plan_schema, value_in
from agenttune.launch.study.state import RoundRun, Study
from agenttune.llm.answer_text import Unreadable, answer_in, without_thinking
from agenttune.llm.prompts import Prompts, Rendered, fenced, goal_variables
from agenttune.policy.llm.past_runs import PastRun, details, facts
from agenttune.protocol.metrics import encode_number
from agenttune.protocol.model_calls import ChatMessage, ModelCalled, Purpose
from agenttune.protocol.summary import Intervention, MetricAt, RunSummary

if TYPE_CHECKING:
    from agenttune.llm import ChatModel

PLANNER = "planner"
"""What calls are recorded under."""
MAX_REPAIRS = 2
"""How often in one round a refused plan may be corrected."""
REFLECTION_CHARACTERS = 1500
"""About 350 tokens a round: ten rounds still fit any context (a guess)."""
SHOWN_COMMANDS = 30
SHOWN_FINDINGS = 20
SHOWN_RUNS = 60
"""Of each, the newest: a prompt stays of bounded size however long the study."""
DETAILED_RUNS = 8
"""Runs whose curves are shown: round 0, the best, and the newest."""

GOAL_VARIABLES = ("goal_metric", "goal_direction", "constraints", "context", "round", "count", "runs", "facts")
PLAN_VARIABLES = (*GOAL_VARIABLES, "subject", "parameters", "reflections", "reasoning_characters")
REFLECT_VARIABLES = (*GOAL_VARIABLES, "reasoning", "commands", "findings", "notes", "characters")
"""What the templates may use."""

RecordCall = Callable[[ModelCalled], object]


@dataclass(frozen=True)
class PlanAnswer:
    """What came of asking for a plan.

    Attributes:
        start: The values; None if every answer was refused.
        reasoning: The model's.
        refused: Why answers were refused, in order.
    """

    start: Start | None
    reasoning: str = ""
    refused: list[str] = field(default_factory=list)


class Planner:
    """Plans and reflects.

    Args:
        model: The language model; its caps hold over the whole study. None: nobody is asked, only prompts are made.
        prompts: Where `plan` and `reflect` come from.
        goal: What counts as good.
        parameters: What a plan may choose.
        args: The script's own arguments.
        record: Called with every call, before its answer is used.
    """

    def __init__(
        self,
        model: ChatModel | None,
        prompts: Prompts,
        goal: GoalSettings,
        parameters: Parameters,
        args: Sequence[str],
        record: RecordCall,
    ) -> None:
        self._model, self._prompts, self._goal = model, prompts, goal
        self._parameters, self._args, self._record = parameters, list(args), record
        self._is_checked = False

    def check(self) -> None:
        """Find what is wrong with the prompts before anything runs.

        Raises:
            ConfigError: A template of the user's is wrong.
        """
        self._prompts.check("plan", PLAN_VARIABLES)
        self._prompts.check("reflect", REFLECT_VARIABLES)

    def unavailable(self) -> str:
        """Why no call would be made now; empty if all is well."""
        return "no language model" if self._model is None else self._model.unavailable()

    def plan(self, study: Study, number: int, subject: str, past: Mapping[str, PastRun]) -> PlanAnswer:
        """Ask for the start of a round; a wrong answer is sent back with the error, at most twice.

        Args:
            study: So far.
            number: Of the round.
            subject: The script, in words.
            past: Its runs by their ids, as far as they are to be shown with their course.

        Raises:
            BudgetSpent, ModelUnavailable: There was no answer.
        """
        prompt = self.plan_prompt(study, number, subject, past)
        messages = [ChatMessage(role="user", content=prompt.text)]
        refused: list[str] = []
        for _ in range(1 + MAX_REPAIRS):
            answer = self._ask(messages, prompt, "plan", plan_schema(self._parameters))
            try:
                start, reasoning = self._read(answer)
                return PlanAnswer(start, reasoning, refused)
            except UserError as error:
                refused.append(str(error))
                said = f"This plan was refused: {fenced(error)}. Answer again with the whole JSON object."
                again = [ChatMessage(role="assistant", content=answer), ChatMessage(role="user", content=said)]
                messages = [*messages, *again]
        return PlanAnswer(None, refused=refused)

    def plan_prompt(self, study: Study, number: int, subject: str, past: Mapping[str, PastRun]) -> Rendered:
        """What is asked for a plan."""
        return self._prompts.render("plan", **self._plan_variables(study, number, subject, past))

    def reflect_prompt(self, study: Study, number: int, summary: RunSummary, past: Mapping[str, PastRun]) -> Rendered:
        """What is asked for a reflection."""
        return self._prompts.render("reflect", **self._reflect_variables(study, number, summary, past))

    def reflect(self, study: Study, number: int, summary: RunSummary, past: Mapping[str, PastRun]) -> str:
        """Ask what a round has taught; the answer is cut to a bounded length.

        Raises:
            BudgetSpent, ModelUnavailable: There was no answer.
        """
        prompt = self.reflect_prompt(study, number, summary, past)
        text = self._ask([ChatMessage(role="user", content=prompt.text)], prompt, "reflect")
        text = without_thinking(text)
        return text if len(text) <= REFLECTION_CHARACTERS else text[: REFLECTION_CHARACTERS - 1] + "…"

    def _ask(
        self, messages: Sequence[ChatMessage], prompt: Rendered, purpose: Purpose, schema: dict[str, Any] | None = None
    ) -> str:
        """The answer's text, with the call recorded whether it came or not."""
        model = self._model
        if model is None:
            raise ModelUnavailable("no language model")
        try:
            self._check_capabilities(model)
            call = model.ask(messages, policy=PLANNER, purpose=purpose, schema=schema, prompts=[prompt.used])
        except ModelUnavailable as error:
            for failed in error.calls:
                self._record(failed)
            raise
        self._record(call)
        return (call.answer.content or "") if call.answer is not None else ""

    def _check_capabilities(self, model: ChatModel) -> None:
        if not self._is_checked:
            for call in model.check_capabilities(PLANNER):
                self._record(call)
            self._is_checked = True

    def _read(self, answer: str) -> tuple[Start, str]:
        try:
            raw = answer_in(answer, "start")
        except Unreadable as error:
            problem = f'{error}; it must be one JSON object with the keys "reasoning" and "start"'
            raise UserError(problem, field="answer") from None
        reasoning = raw.get("reasoning") or ""
        return check_start(raw.get("start"), self._parameters), str(reasoning)[:REASONING_CHARACTERS]

    def _plan_variables(self, study: Study, number: int, subject: str, past: Mapping[str, PastRun]) -> dict[str, Any]:
        parameters = [
            {"name": name, **p.model_dump(), "own": value_in(self._args, p.argument) or "the script's default"}
            for name, p in self._parameters.items()
        ]
        # Round 0 is what the rest is measured against: it stays however many runs there were.
        shown = [*study.runs[:1], *study.runs[1:][-SHOWN_RUNS:]]
        return {
            **goal_variables(self._goal),
            "subject": subject,
            "round": number,
            "count": study.count,
            "parameters": parameters,
            "runs": [run_words(run, past.get(run.run_id)) for run in shown],
            "facts": _facts(study, past),
            "reflections": [r.model_dump() for r in study.reflections[-SHOWN_RUNS:]],
            "reasoning_characters": REASONING_CHARACTERS,
        }

    def _reflect_variables(
        self, study: Study, number: int, summary: RunSummary, past: Mapping[str, PastRun]
    ) -> dict[str, Any]:
        plan = study.plan(number)
        compared = compared_runs(study, number)
        return {
            **goal_variables(self._goal),
            "round": number,
            "count": study.count,
            "reasoning": plan.reasoning if plan is not None else "",
            "runs": [run_words(run, past.get(run.run_id)) for run in compared],
            "facts": _facts(study, past),
            "commands": [_command_words(i) for i in summary.interventions[-SHOWN_COMMANDS:]],
            "findings": [f"step {f.finding.step}: {f.finding.summary}" for f in summary.findings[-SHOWN_FINDINGS:]],
            "notes": summary.notes[-SHOWN_FINDINGS:],
            "characters": REFLECTION_CHARACTERS,
        }


def compared_runs(study: Study, number: int) -> list[RoundRun]:
    """The runs that a reflection on a round is about."""
    return [run for run in study.runs if run.counts and run.round in (0, number)]


def detailed_runs(study: Study) -> list[RoundRun]:
    """The runs whose course a plan is shown: round 0, the best one, and the newest."""
    ended = [run for run in study.runs if run.counts]
    first = [run for run in (study.reference, study.best()) if run is not None]
    kept = {run.run_id for run in first}
    newest = [run for run in ended if run.run_id not in kept][-(DETAILED_RUNS - len(kept)) :]
    kept |= {run.run_id for run in newest}
    return [run for run in ended if run.run_id in kept]


def _facts(study: Study, past: Mapping[str, PastRun]) -> list[str]:
    """Model and data, as the first run that is known has them: a study trains the same script again and again."""
    known = (past[run.run_id] for run in study.runs if run.run_id in past)
    return next((lines for run in known if (lines := facts(run))), [])


def run_words(run: RoundRun, past: PastRun | None = None) -> dict[str, Any]:
    """A run as a prompt shows it; `past` is its course, for the runs that are shown with it."""
    score = run.score
    return {
        "round": run.round,
        "arm": run.arm,
        "policy": run.policy,
        "start": json.dumps(run.start) if run.start else "the file's own",
        "outcome": run.outcome or "not ended",
        "reason": run.reason,
        "final": _metric(score.last if score else None),
        "best": _metric(score.best if score else None),
        "change": "no change known" if run.change_percent is None else f"{run.change_percent:+.2f} %",
        "commands": run.commands,
        "steps": run.steps,
        "details": details(past) if past is not None else [],
    }


def _metric(point: MetricAt | None) -> str:
    if point is None:
        return "none"
    value = encode_number(point.value)
    return f"{value:.6g} at step {point.step}" if isinstance(value, float) else f"{value} at step {point.step}"


def _command_words(item: Intervention) -> dict[str, str]:
    step = item.applied_at_step if item.applied_at_step is not None else item.proposed_at_step
    return {
        "when": "before step 1" if step is None else f"step {step}",
        "what": f"{item.kind}: {item.summary}",
        "state": item.state.value,
        "effect": item.effect.words if item.effect else "it changed nothing",
        "why": item.rationale,
    }
