"""What a run's calls of language models took: a fold of the log."""

from __future__ import annotations

from agenttune.protocol.events import Decided, Probed
from agenttune.protocol.model_calls import Cost, ModelCalled
from agenttune.protocol.summary import DecisionCost, ProbeCost
from agenttune.store.run_log import RunLog


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
    for event in log.every_event("model_called", "decided"):
        if isinstance(event.body, ModelCalled):
            pending.append(event.body.model_copy(update={"messages": [], "answer": None}))
        elif isinstance(event.body, Decided) and pending:
            step = event.step if event.body.based_on_step is None else event.body.based_on_step
            decisions.append(
                DecisionCost(
                    step=step,
                    policy=event.body.policy,
                    cost=Cost.of(pending),
                    faults=event.body.faults,
                    unusable=event.body.unusable,
                )
            )
            calls, pending = calls + pending, []
    return Cost.of(calls + pending), decisions
