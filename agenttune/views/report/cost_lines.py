"""What language models cost, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from agenttune.protocol.model_calls import Cost
from agenttune.protocol.summary import DecisionCost, ProbeCost
from agenttune.protocol.text import cut, dollars, duration, plural, tokens

SHOWN_WAYS, WAY_CHARACTERS = 3, 300
"""Ways to fail that a report tells, and how long each is."""


def cost_words(cost: Cost) -> str:
    """Such as `2 calls, 5.3k tokens, $0.0021`; says so where a price is not known."""
    failed = f", {cost.failed_calls} failed" if cost.failed_calls else ""
    return f"{plural(cost.calls, 'call')}{failed}, {tokens(cost.tokens)} tokens, {price(cost)}"


def price(cost: Cost) -> str:
    """The cost in US dollars, and for which calls it is not known."""
    unknown = [f"unknown price of {', '.join(cut(model, 60) for model in cost.unpriced)}"] if cost.unpriced else []
    unknown += ["tokens not told"] if cost.uncounted_calls else []
    known = [] if unknown and cost.usd == 0 else [dollars(cost.usd)]
    return " + ".join([*known, *unknown])


def cost_report(cost: Cost, decisions: Sequence[DecisionCost]) -> list[str]:
    """The lines of a report; none if no language model was called."""
    if not cost.calls:
        return []
    failed = f" ({cost.failed_calls} failed)" if cost.failed_calls else ""
    latency = "" if cost.mean_latency_s is None else f", {duration(cost.mean_latency_s)} a call"
    cached = f" ({tokens(cost.cached_input_tokens)} cached)" if cost.cached_input_tokens else ""
    models = ", ".join(cut(model, 60) for model in cost.models)
    lines = [
        f"{plural(cost.calls, 'call')}{failed} of {models}: {price(cost)}{latency}",
        f"{tokens(cost.input_tokens)} tokens in{cached}, {tokens(cost.output_tokens)} out",
    ]
    if decisions:
        lines.append(_per_decision([decision.cost for decision in decisions]))
    if cost.uncounted_calls:
        lines.append(f"the server did not tell the tokens of {cost.uncounted_calls} calls")
    return lines


def model_report(decisions: Sequence[DecisionCost]) -> list[str]:
    """How the decisions of language models failed, the commonest way first; none if all went well."""
    useless = [decision for decision in decisions if decision.unusable]
    lines = []
    if useless:
        of = f"{len(useless)} of {plural(len(decisions), 'decision')} of the model"
        ways = Counter(decision.faults[-1] if decision.faults else "it gave no reason" for decision in useless)
        first = [_way(words, count, len(useless)) for words, count in ways.most_common(SHOWN_WAYS)]
        rest = len(useless) - sum(count for _, count in ways.most_common(SHOWN_WAYS))
        more = [f"and {rest} in other ways"] if rest else []
        lines.append(f"{of} {'was' if len(useless) == 1 else 'were'} unusable: {'; '.join([*first, *more])}")
    others = Counter(fault for d in decisions for fault in (d.faults[:-1] if d.unusable else d.faults))
    lines += [_way(words, count, 1) for words, count in others.most_common(SHOWN_WAYS)]
    rest = sum(others.values()) - sum(count for _, count in others.most_common(SHOWN_WAYS))
    return [*lines, *([f"and {rest} more faults in asking it, which the log has"] if rest else [])]


def all_unusable(decisions: Sequence[DecisionCost]) -> bool:
    """Whether a model was asked and never gave anything that could be used."""
    return bool(decisions) and all(decision.unusable for decision in decisions)


def _way(words: str, count: int, of: int) -> str:
    return cut(words, WAY_CHARACTERS) + (f" ({count} times)" if count > 1 and count != of else "")


def probe_line(probing: ProbeCost, steps: int) -> str:
    """What probes took beside the run's own steps; empty if there were none."""
    if not probing.probes:
        return ""
    share = f" ({100 * probing.extra_steps / steps:.0f} % of the run's {steps})" if steps else ""
    return (
        f"{plural(probing.probes, 'probe')}, {probing.adopted} adopted: {probing.extra_steps} extra steps{share}, "
        f"{duration(probing.extra_s)}"
    )


def _per_decision(costs: Sequence[Cost]) -> str:
    count = len(costs)
    mean, most = sum(cost.tokens for cost in costs) / count, max(cost.tokens for cost in costs)
    whole = not any(cost.unpriced or cost.uncounted_calls for cost in costs)
    money = f", {dollars(sum(cost.usd for cost in costs) / count)}" if whole else ""
    by = f"{plural(count, 'decision')} by language models"
    return f"{by}: {tokens(mean)} tokens{money} each, the dearest {tokens(most)} tokens"
