"""Training steps that probes will take beside the run's own, as far as that can be told before it starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from agenttune.config import BudgetSettings, Config, WakeSettings
from agenttune.config.expressions import evaluate
from agenttune.errors import UserError
from agenttune.launch.estimate.figures import BUSY_FACTOR, ZERO, PastUsage, Range
from agenttune.policy.base import Policy
from agenttune.policy.llm.llm_policy import LlmPolicy
from agenttune.policy.lookahead import VALID_FOR_STEPS, Lookahead, LookaheadFile
from agenttune.policy.rule_names import PLAIN_FUNCTIONS
from agenttune.policy.rules import RulePolicy, RuleSettings
from agenttune.policy.wrappers.simple import Shadow
from agenttune.policy.wrappers.wrapper import Composite
from agenttune.protocol.commands import Probe
from agenttune.protocol.proposals import Record


class ProbeEstimate(Record):
    """Extra steps of the probes of all parts of a policy, within the caps of `budgets`.

    Attributes:
        probes: That the policy would ask for, whatever the cap; None: a part decides by itself how many.
        cap: The tightest of `budgets`; empty: there is none.
        capped: Whether the cap, and not the policy, is what ends the probes of a busy run.
        step_s: Time of an extra step, in seconds; None: no past run tells.
        timed_by: What that rests on.
        usd: None: there is no `gate.usd_per_hour`, or no time.
        unknown: What cannot be known, and why.
    """

    policies: list[str]
    probes: Range | None = None
    extra_steps: Range | None = Field(None, description="None: unlimited, there is no cap.")
    cap: str = ""
    capped: bool = False
    step_s: float | None = None
    timed_by: str = ""
    seconds: Range | None = None
    usd: Range | None = None
    unknown: list[str] = Field(default_factory=list)


PROBES_ON_FINDINGS = 2
"""Of a run whose rate is wrong, where only findings ask for them and no past run tells (measured: one or two)."""


def probes_ahead(file: LookaheadFile, steps: int, pace: int, adopts: bool) -> int:
    """Probes of a lookahead policy in a run without findings.

    Args:
        file: Its settings.
        steps: How long the run is.
        pace: How often the policy is asked, in steps.
        adopts: Whether each probe adopts something, or none does.
    """
    if file.only_on_findings:
        return 0
    lengths = file.lengths(steps)
    longest = max(lengths.steps, lengths.confirm_steps or 0)
    count, step = 0, _woken(lengths.first_step, pace)
    while step + longest + VALID_FOR_STEPS < steps:
        count += 1
        is_searching = file.narrow_factors is not None and (adopts or count == 1)
        vain = 0 if adopts else count - (file.narrow_factors is not None)
        wait = max(0 if is_searching else file.wait_steps(vain, steps), lengths.rest_steps)
        step = _woken(step + wait, pace)
    return count


def _woken(step: int, pace: int) -> int:
    return max(1, -(-step // pace)) * pace


def estimate_probes(policy: Policy, config: Config, steps: int, past_runs: Sequence[PastUsage]) -> ProbeEstimate | None:
    """The extra steps of a policy's probes; None if no part of it can ask for one."""
    parts = list(_acting(policy))
    ahead = [part for part in parts if isinstance(part, Lookahead)]
    rules = {
        p.name: [rule_probes(r, steps) for r in p.rules if _probes_by(r)] for p in parts if isinstance(p, RulePolicy)
    }
    rules = {name: found for name, found in rules.items() if found}
    free = [part.name for part in parts if _is_free(part)]
    free += [name for name, found in rules.items() if None in found]
    bounded = [most for name, found in rules.items() if name not in free for most in found if most is not None]
    if Probe.kind_name() in config.gate.forbid or not (ahead or free or bounded):
        return None
    cap, limit = _cap(config.budgets, steps)
    counts = [_probes(part.settings, config.wake, steps, past_runs) for part in ahead]
    each = [part.settings.extra_steps(steps) for part in ahead]
    counts += [Range(low=0, high=most.times) for most in bounded]
    each += [most.extra_steps for most in bounded]
    wanted = sum((count.scaled(extra) for count, extra in zip(counts, each, strict=True)), ZERO)
    if limit is not None and len(each) == 1 and not free:
        limit -= limit % each[0]  # the gate refuses what does not fit as a whole
    most = limit if free or (limit is not None and wanted.high > limit) else wanted.high
    found = ProbeEstimate(
        policies=[part.name for part in ahead] + [name for name in rules if name not in free] + free,
        probes=None if free else sum(counts, ZERO),
        extra_steps=None if most is None else Range(low=min(wanted.low, most), high=most),
        cap=cap,
        capped=limit is not None and most == limit,
        unknown=list(_unknown(free, cap)),
    )
    return _timed(found, config.gate.usd_per_hour, past_runs)


def _acting(policy: Policy) -> Iterator[Policy]:
    """All parts of a policy whose proposals count."""
    if isinstance(policy, Shadow):
        return
    yield policy
    if isinstance(policy, Composite):
        for part in policy.parts:
            yield from _acting(part)


def _is_free(part: Policy) -> bool:
    """Whether a part asks for probes when it sees fit, and how many steps each takes is its own affair."""
    return isinstance(part, LlmPolicy) and part.settings.form == "tools" and not part.unavailable()


@dataclass(frozen=True)
class RuleProbes:
    """What the probes of a rule take at most: how many, and the extra steps of each."""

    times: int
    extra_steps: int


def _probes_by(rule: RuleSettings) -> list[dict[str, Any]]:
    return [do for do in (rule.do, *rule.also) if do["command"] == Probe.kind_name()]


def rule_probes(rule: RuleSettings, steps: int) -> RuleProbes | None:
    """What the probes of a rule take at most; None where that depends on more than the length of the run.

    Args:
        rule: One that probes.
        steps: How long the run is.
    """
    if rule.max_times is None:
        return None
    extra = 0
    for do in _probes_by(rule):
        fields = {name: field.default for name, field in Probe.model_fields.items()} | do
        lengths = [_known(fields[name], steps) for name in ("steps", "confirm_steps")]
        if (
            None in lengths
            or not isinstance(fields["candidates"], list)
            or fields["include_current"] not in (True, False)
        ):
            return None
        trial, confirmation = (length or 0 for length in lengths)
        extra += trial * (len(fields["candidates"]) + fields["include_current"]) + 2 * confirmation
    return RuleProbes(rule.max_times, extra)


def _known(value: Any, steps: int) -> int | None:
    """A number of steps; 0 for none, and None for an expression of more than the length of the run."""
    if not isinstance(value, str):
        return value or 0
    try:
        found: float = evaluate(value.removeprefix("="), {"max_steps": steps}, PLAIN_FUNCTIONS)
    except UserError:
        return None
    return round(found)


def _unknown(free: Sequence[str], cap: str) -> Iterator[str]:
    if free:
        end = f"{cap} is the only limit" if cap else "budgets.max_probe_frac and max_probe_steps are off: no limit"
        yield f"{', '.join(free)} probes when it sees fit, with as many candidates and steps as it likes; {end}"


def _cap(budgets: BudgetSettings, steps: int) -> tuple[str, int | None]:
    caps: dict[str, int] = {}
    if budgets.max_probe_frac is not None:
        caps["budgets.max_probe_frac"] = int(budgets.max_probe_frac * steps)
    if budgets.max_probe_steps is not None:
        caps["budgets.max_probe_steps"] = budgets.max_probe_steps
    name = min(caps, key=lambda cap: caps[cap], default="")
    return name, caps.get(name)


def _probes(file: LookaheadFile, wake: WakeSettings, steps: int, past_runs: Sequence[PastUsage]) -> Range:
    """From each in vain to each adopted, with one more for each finding that past runs had."""
    low, paced = (probes_ahead(file, steps, pace, adopts) for pace, adopts in ((wake.every_steps, False), (1, True)))
    kinds = {*file.on_findings, *file.factors_on}
    if not kinds:
        return Range(low=low, high=paced)
    told = [sum(run.findings.get(kind, 0) for kind in kinds) * steps / run.steps for run in past_runs]
    if file.only_on_findings:
        return Range(low=low, high=round(max(told, default=PROBES_ON_FINDINGS)))
    restless = file.model_copy(update={"every_steps": max(file.lengths(steps).rest_steps, 1), "max_every_steps": 1})
    busy = paced + max(told) if told else paced * BUSY_FACTOR
    return Range(low=low, high=max(paced, min(round(busy), probes_ahead(restless, steps, 1, True))))


def _timed(found: ProbeEstimate, usd_per_hour: float | None, past_runs: Sequence[PastUsage]) -> ProbeEstimate:
    step_s, timed_by = _step_s(past_runs)
    unknown = list(found.unknown)
    if step_s is None:
        unknown.append("how long a step takes: no past run of this name has recorded one")
    if usd_per_hour is None:
        unknown.append("what an hour of the machine costs: set gate.usd_per_hour")
    seconds = None
    if step_s is not None and found.extra_steps is not None:
        seconds = found.extra_steps.scaled(step_s)
    usd = None
    if seconds is not None and usd_per_hour is not None:
        usd = seconds.scaled(usd_per_hour / 3600)
    more = {"step_s": step_s, "timed_by": timed_by, "seconds": seconds, "usd": usd, "unknown": unknown}
    return found.model_copy(update=more)


def _step_s(past_runs: Sequence[PastUsage]) -> tuple[float | None, str]:
    """Time of an extra step: as in the newest run with probes, going back included, else of a plain step."""
    for run in past_runs:
        if run.probing.extra_steps:
            return run.probing.extra_s / run.probing.extra_steps, f"the probes of {run.run_id}"
    for run in past_runs:
        if run.step_s is not None:
            return run.step_s, f"the steps of {run.run_id}, without the time of going back"
    return None, ""
