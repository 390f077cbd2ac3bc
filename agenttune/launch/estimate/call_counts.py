"""What the language models of a run will be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean, quantiles

from agenttune.config import Config, Price, WakeSettings
from agenttune.launch.estimate.figures import BUSY_FACTOR, PastUsage, Range
from agenttune.policy.base import Policy
from agenttune.policy.llm.llm_policy import LlmFile, LlmPolicy
from agenttune.policy.llm.reviewer import Reviewer
from agenttune.policy.llm.sample_run import opening_tokens, review_tokens
from agenttune.policy.wrappers.alternatives import Escalation
from agenttune.policy.wrappers.second_opinion import SecondOpinion
from agenttune.policy.wrappers.wrapper import walk
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Record

BUSY_CALLS = 3.0
"""Calls of one decision that reads, or mends what was wrong, where no record tells (guess)."""
OUTPUT_TOKENS = {"tools": (80.0, 400.0), "compact": (20.0, 80.0), "review": (60.0, 250.0)}
OUTPUT_TOKENS |= {"plan": (100.0, 400.0), "reflect": (100.0, 400.0)}
"""Tokens of one answer, by form, where no record tells (guess; a model that thinks aloud takes more)."""


class ModelEstimate(Record):
    """What one model of a policy will be asked.

    Attributes:
        role: `decides` or `reviews`; in a study also `plans` and `reflects`.
        runs: How many runs of a study all this is for.
        recorded_calls: Calls of past runs that the figures rest on; 0: prompts were rendered, four letters a token.
        usd: None: the model's price is not in `llm.prices`.
    """

    policy: str
    model: str
    role: str
    runs: int = 1
    decisions: Range
    calls: Range
    input_tokens: Range
    output_tokens: Range
    recorded_calls: int
    usd: Range | None

    @property
    def tokens(self) -> Range:
        return self.input_tokens + self.output_tokens


def estimate_models(
    policy: Policy, config: Config, steps: int, records: Sequence[PastUsage]
) -> Iterator[ModelEstimate]:
    """What each model inside a policy will be asked; one that cannot be asked costs nothing."""
    for part in walk(policy):
        if isinstance(part, LlmPolicy) and not part.unavailable():
            yield _decides(part, _decisions(policy, part, config.wake, steps, records), config, records)
        elif isinstance(part, SecondOpinion) and not part.reviewer.unavailable():
            at_most = max((_decisions(policy, p, config.wake, steps, records).high for p in _deciders(part)), default=0)
            yield _reviews(part.name, part.reviewer, Range(low=0, high=at_most), config, records)


def _deciders(part: Policy) -> list[LlmPolicy]:
    return [inside for inside in walk(part) if isinstance(inside, LlmPolicy)]


def _decisions(policy: Policy, part: LlmPolicy, wake: WakeSettings, steps: int, records: Sequence[PastUsage]) -> Range:
    """Decisions of a model: at its own pace, and for findings and evaluations as often as past runs had them."""
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
    """The first look of the loop's own that is at least `pause` steps later."""
    pace = wake.pace(step + max(pause, 1))
    return step + -(-max(pause, 1) // pace) * pace


def _decides(part: LlmPolicy, decisions: Range, config: Config, records: Sequence[PastUsage]) -> ModelEstimate:
    model, form = part.settings.model or config.llm.model or "", part.settings.form
    known = _recorded(records, model, "decide")
    a_decision = Range(low=1, high=1 if form == "compact" else BUSY_CALLS)
    return priced(part.name, model, "decides", decisions, a_decision, opening_tokens(part), form, known, config)


def _reviews(
    name: str, reviewer: Reviewer, decisions: Range, config: Config, records: Sequence[PastUsage]
) -> ModelEstimate:
    known = _recorded(records, reviewer.model, "review")
    once = Range(low=1, high=1)
    tokens = review_tokens(reviewer)
    return priced(name, reviewer.model, "reviews", decisions, once, tokens, "review", known, config)


def _recorded(records: Sequence[PastUsage], model: str, purpose: str) -> list[ModelCalled]:
    return usable([call for record in records for call in record.calls], model, purpose)


def usable(calls: Sequence[ModelCalled], model: str, purpose: str) -> list[ModelCalled]:
    """Those calls of a model for a purpose that were answered and whose tokens are known."""
    fits = [call for call in calls if call.model == model and call.purpose == purpose]
    return [call for call in fits if call.usage is not None and not call.error]


def priced(
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
