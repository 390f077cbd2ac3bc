"""What the language models of a run will cost, before it starts: counted where there are records, guessed where not.

Everything that is guessed is said. The range goes from a quiet run, in which the model is asked at its own pace and
answers at once, to a busy one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, quantiles

from pydantic import Field

from agenttune.config import BudgetSettings, Config, Price, WakeSettings
from agenttune.errors import UserError
from agenttune.events import Decided, RunInfo
from agenttune.journal import model_calls
from agenttune.policy.base import Policy, PolicyContext
from agenttune.policy.escalation import Escalation
from agenttune.policy.llm import LlmFile, LlmPolicy
from agenttune.policy.load import open_policy
from agenttune.policy.reviewer import Reviewer
from agenttune.policy.sample import opening_tokens, review_tokens
from agenttune.policy.second_opinion import SecondOpinion
from agenttune.policy.wrappers import walk
from agenttune.proposals import Record
from agenttune.store import RunLog, list_runs, run_folder
from agenttune.transcripts import ModelCalled

FORMER_RUNS = 5
"""Newest runs of the same name that are looked through for recorded calls."""
BUSY_FACTOR = 1.5
"""Decisions of a busy run, against one in which nothing happens, where no former run tells (guess)."""
BUSY_CALLS = 3.0
"""Calls of one decision that reads, or mends what was wrong, where no record tells (guess)."""
OUTPUT_TOKENS = {"tools": (80.0, 400.0), "compact": (20.0, 80.0), "review": (60.0, 250.0)}
"""Tokens of one answer, by form, where no record tells (guess; a model that thinks aloud takes more)."""


class Range(Record):
    """From a quiet run to a busy one."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(low=self.low + other.low, high=self.high + other.high)

    def __mul__(self, other: Range) -> Range:
        return Range(low=self.low * other.low, high=self.high * other.high)


ZERO = Range(low=0, high=0)


class ModelEstimate(Record):
    """What one model of a policy will be asked.

    Attributes:
        role: `decides` or `reviews`.
        recorded_calls: Calls of former runs that the figures rest on; 0: prompts were rendered, four letters a token.
        usd: None: the model's price is not in `llm.prices`.
    """

    policy: str
    model: str
    role: str
    decisions: Range
    calls: Range
    input_tokens: Range
    output_tokens: Range
    recorded_calls: int
    usd: Range | None

    @property
    def tokens(self) -> Range:
        return self.input_tokens + self.output_tokens


class CapReached(Record):
    """A cap of `budgets` that a run may reach; from there on it goes by its rules."""

    cap: str
    limit: float
    at_step_busy: int
    at_step_quiet: int | None = Field(None, description="None: not reached in a quiet run.")


class Estimate(Record):
    """What a run will ask of language models, without regard to the caps."""

    policy: str
    steps: int
    steps_from: str
    models: list[ModelEstimate] = Field(default_factory=list)
    caps: list[CapReached] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


def estimate(config: Config, folder: Path, runs_dir: Path, steps: int | None = None) -> Estimate:
    """Estimate a run.

    Args:
        config: Its settings.
        folder: The config file's.
        runs_dir: Where former runs are.
        steps: How long it will be; default: as the newest finished run of the same name.

    Raises:
        ConfigError: The policy is wrong.
        UserError: No run of that name has finished, and no number of steps is given.
    """
    loaded = open_policy(config.policy, PolicyContext(folder, config.goal, config.llm, config.budgets))
    former = [info for info in list_runs(runs_dir) if info.name == config.run.name and info.step > 0]
    count, steps_from = (steps, "given") if steps is not None else _steps_of(former, config.run.name)
    records = [_Records.of(run_folder(runs_dir, info.run_id), info) for info in former[:FORMER_RUNS]]
    models = list(_models(loaded.policy, config, count, records))
    notes = [loaded.notice] if loaded.notice else []
    return Estimate(
        policy=loaded.policy.name,
        steps=count,
        steps_from=steps_from,
        models=models,
        caps=list(_caps(models, config.budgets, count)),
        notes=[*notes, *_notes(models, config)],
    )


def _steps_of(former: Sequence[RunInfo], name: str) -> tuple[int, str]:
    finished = next((info for info in former if info.status == "finished"), None)
    if finished is None:
        raise UserError(
            f"how many steps the run has is not known before it starts, and no run named {name!r} has finished yet; "
            "give them with --steps",
            field="steps",
        )
    return finished.step, f"as in {finished.run_id}"


@dataclass(frozen=True)
class _Records:
    """What a former run tells."""

    steps: int
    decisions: int
    calls: list[ModelCalled]

    @classmethod
    def of(cls, folder: Path, info: RunInfo) -> _Records:
        log = RunLog.open(folder)
        try:
            decided = [e.body for e in log.events(kinds=["decided"], limit=100_000) if isinstance(e.body, Decided)]
            news = sum("finding" in body.woken_by or "evaluation" in body.woken_by for body in decided)
            return cls(info.step, news, model_calls(log))
        finally:
            log.close()


def _models(policy: Policy, config: Config, steps: int, records: Sequence[_Records]) -> Iterator[ModelEstimate]:
    """What each model inside a policy will be asked; one that cannot be asked costs nothing."""
    for part in walk(policy):
        if isinstance(part, LlmPolicy) and not part.unavailable():
            yield _decides(part, _decisions(policy, part, config.wake, steps, records), config, records)
        elif isinstance(part, SecondOpinion) and not part.reviewer.unavailable():
            at_most = max((_decisions(policy, p, config.wake, steps, records).high for p in _deciders(part)), default=0)
            yield _reviews(part.name, part.reviewer, Range(low=0, high=at_most), config, records)


def _deciders(part: Policy) -> list[LlmPolicy]:
    return [inside for inside in walk(part) if isinstance(inside, LlmPolicy)]


def _decisions(policy: Policy, part: LlmPolicy, wake: WakeSettings, steps: int, records: Sequence[_Records]) -> Range:
    """Decisions of a model: at its own pace, and for findings and evaluations as often as former runs had them."""
    at_pace = paced(part.settings, wake, steps) if _is_paced(policy, part) else 0
    told = [record.decisions * steps / record.steps for record in records if record.decisions]
    busy = at_pace + max(told) if told else max(1.0, at_pace * BUSY_FACTOR)
    return Range(low=at_pace, high=round(busy))


def _is_paced(policy: Policy, part: LlmPolicy) -> bool:
    """Whether a model is also asked when nothing has happened but steps."""
    above = [p for p in walk(policy) if isinstance(p, Escalation) and any(part in walk(o) for o in p.policies[1:])]
    return all("cadence" in escalation.escalate_on for escalation in above)


def paced(file: LlmFile, wake: WakeSettings, steps: int) -> int:
    """Decisions of a model when nothing happens: the loop wakes it, and its own pace decides whether it is asked."""
    count, step = 0, _next_wake(0, 1, wake)
    while step <= steps:
        count += 1
        pause = file.early_every_steps if step < file.early_until_step else file.every_steps
        step = _next_wake(step, pause, wake)
    return count


def _next_wake(step: int, pause: int, wake: WakeSettings) -> int:
    """The first multiple of the loop's own pace that is at least `pause` steps later."""
    return step + -(-max(pause, 1) // wake.every_steps) * wake.every_steps


def _decides(part: LlmPolicy, decisions: Range, config: Config, records: Sequence[_Records]) -> ModelEstimate:
    model, form = part.settings.model or config.llm.model or "", part.settings.form
    known = _recorded(records, model, "decide")
    a_decision = Range(low=1, high=1 if form == "compact" else BUSY_CALLS)
    return _priced(part.name, model, "decides", decisions, a_decision, opening_tokens(part), form, known, config)


def _reviews(
    name: str, reviewer: Reviewer, decisions: Range, config: Config, records: Sequence[_Records]
) -> ModelEstimate:
    known = _recorded(records, reviewer.model, "review")
    once = Range(low=1, high=1)
    tokens = review_tokens(reviewer)
    return _priced(name, reviewer.model, "reviews", decisions, once, tokens, "review", known, config)


def _recorded(records: Sequence[_Records], model: str, purpose: str) -> list[ModelCalled]:
    calls = [call for record in records for call in record.calls if call.model == model and call.purpose == purpose]
    return [call for call in calls if call.usage is not None and not call.error]


def _priced(
    policy: str,
    model: str,
    role: str,
    decisions: Range,
    a_decision: Range,
    rendered: float,
    form: str,
    known: Sequence[ModelCalled],
    config: Config,
) -> ModelEstimate:
    calls = decisions * a_decision
    guess = OUTPUT_TOKENS[form]
    inputs = _spread([c.usage.input_tokens for c in known if c.usage]) or Range(
        low=rendered, high=rendered * BUSY_FACTOR
    )
    outputs = _spread([c.usage.output_tokens for c in known if c.usage]) or Range(low=guess[0], high=guess[1])
    price = config.llm.prices.get(model)
    return ModelEstimate(
        policy=policy,
        model=model,
        role=role,
        decisions=decisions,
        calls=calls,
        input_tokens=calls * inputs,
        output_tokens=calls * outputs,
        recorded_calls=len(known),
        usd=None if price is None else _usd(price, calls * inputs, calls * outputs),
    )


def _spread(counts: Sequence[int]) -> Range | None:
    """Mean and ninth decile; None of nothing."""
    if not counts:
        return None
    high = quantiles(counts, n=10)[-1] if len(counts) > 1 else counts[0]
    return Range(low=fmean(counts), high=max(high, fmean(counts)))


def _usd(price: Price, inputs: Range, outputs: Range) -> Range:
    """Money without regard to caches, which make it less."""
    low, high = (
        (i * price.input_usd + o * price.output_usd) / 1e6
        for i, o in ((inputs.low, outputs.low), (inputs.high, outputs.high))
    )
    return Range(low=low, high=high)


def _caps(models: Sequence[ModelEstimate], budgets: BudgetSettings, steps: int) -> Iterator[CapReached]:
    totals: dict[str, tuple[float | None, Range]] = {
        "max_calls": (budgets.max_calls, sum((m.calls for m in models), ZERO)),
        "max_tokens": (budgets.max_tokens, sum((m.tokens for m in models), ZERO)),
        "max_usd": (budgets.max_usd, sum((m.usd for m in models if m.usd is not None), ZERO)),
    }
    for cap, (limit, total) in totals.items():
        if limit is not None and total.high > limit:
            quiet = int(steps * limit / total.low) if total.low > limit else None
            yield CapReached(cap=cap, limit=limit, at_step_busy=int(steps * limit / total.high), at_step_quiet=quiet)


def _notes(models: Sequence[ModelEstimate], config: Config) -> Iterator[str]:
    if not models:
        yield "no language model will be called"
        return
    if any(not model.recorded_calls for model in models):
        yield "without records of former runs, tokens are those of rendered prompts at four letters a token"
    unpriced = dict.fromkeys(model.model for model in models if model.usd is None)
    if unpriced:
        yield f"unknown price of {', '.join(unpriced)}: add it under llm.prices"
    else:
        yield "cached input, which costs less, is not taken into account"
    if config.rounds.count:
        yield f"this is for one run; rounds.count is {config.rounds.count}, and plans and reflections cost calls too"
