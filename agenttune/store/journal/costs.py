"""What a run's calls of language models took: a fold of the log."""

from __future__ import annotations

from collections.abc import Sequence

from agenttune.protocol.events import Decided, Probed
from agenttune.protocol.model_calls import ModelCalled, Usage
from agenttune.protocol.summary import Cost, DecisionCost, ProbeCost
from agenttune.store.run_log import RunLog

PAGE = 100
"""Events in memory at once: a transcript may hold megabytes."""


def cost_of(calls: Sequence[ModelCalled]) -> Cost:
    """Add up calls; a price or a count that is not known is named, not guessed."""
    usages = [call.usage or Usage() for call in calls]
    answered = [call for call in calls if not call.error]
    unpriced = [call.model for call in calls if call.usd is None and (call.usage is not None or not call.error)]
    return Cost(
        calls=len(calls),
        failed_calls=len(calls) - len(answered),
        input_tokens=sum(usage.input_tokens for usage in usages),
        cached_input_tokens=sum(usage.cached_input_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        usd=sum(call.usd or 0.0 for call in calls),
        unpriced=list(dict.fromkeys(unpriced)),
        uncounted_calls=sum(call.usage is None for call in answered),
        models=list(dict.fromkeys(call.model for call in calls)),
        mean_latency_s=sum(call.latency_s for call in answered) / len(answered) if answered else None,
    )


def probe_cost(log: RunLog) -> ProbeCost:
    """What the probes of a run took."""
    bodies = [event.body for event in log.events(kinds=["probed"], limit=100_000)]
    probed = [body for body in bodies if isinstance(body, Probed)]
    return ProbeCost(
        probes=len(probed),
        adopted=sum(body.adopted is not None for body in probed),
        extra_steps=sum(body.extra_steps for body in probed),
        extra_s=sum(body.extra_s for body in probed),
    )


def costs_of_run(log: RunLog) -> tuple[Cost, list[DecisionCost]]:
    """What a run's calls took, all together and decision by decision.

    A decision's calls stand before it in the log. Those after the last one, such as a plan's, count in the whole only.
    """
    calls: list[ModelCalled] = []
    pending: list[ModelCalled] = []
    decisions = []
    since = 0
    while page := log.events(since, PAGE, kinds=["model_called", "decided"]):
        since = page[-1].seq
        for event in page:
            if isinstance(event.body, ModelCalled):
                pending.append(event.body.model_copy(update={"messages": [], "answer": None}))
            elif isinstance(event.body, Decided) and pending:
                step = event.step if event.body.based_on_step is None else event.body.based_on_step
                decisions.append(
                    DecisionCost(
                        step=step,
                        policy=event.body.policy,
                        cost=cost_of(pending),
                        faults=event.body.faults,
                        unusable=event.body.unusable,
                    )
                )
                calls, pending = calls + pending, []
    return cost_of(calls + pending), decisions
