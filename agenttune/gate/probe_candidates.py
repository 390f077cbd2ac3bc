"""How the gate judges a probe: each candidate as a proposal of its own; the strictest answer counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agenttune.errors import CommandError
from agenttune.protocol.commands import CommandBase, parse_command
from agenttune.protocol.proposals import ApprovalRequest, Difference, Proposal, Verdict


def alone(proposal: Proposal) -> Iterator[tuple[int, Proposal]]:
    """The candidates of a probe, each as a proposal of its own; none for other commands."""
    for number, candidate in enumerate(proposal.command.tries()):
        yield number, proposal.model_copy(update={"command": candidate})


def about(wrong: Mapping[int, Verdict], probe: CommandBase) -> Verdict:
    """The refusal of a probe, after that of its first wrong candidate, with candidates that would pass.

    Args:
        wrong: Refusals by the candidates' numbers.
        probe: All candidates.
    """
    number, refusal = min(wrong.items())
    reason = f"candidate {number} (from 0): {refusal.reason}"
    nearest = refusal.nearest_allowed
    if nearest:
        raw = [{"kind": candidate.kind, **candidate.arguments()} for candidate in probe.tries()]
        for other, own in wrong.items():
            raw[other] = replaced(raw[other], own.nearest_allowed or {})
        if all(map(_is_valid, raw)):
            unlike = [one for i, one in enumerate(raw) if one not in raw[:i]]  # two may have the same limit
            is_whole = all(own.nearest_allowed for own in wrong.values())
            whole = {"kind": probe.kind, **probe.arguments(), "candidates": unlike}
            nearest = {"candidates": unlike} if is_whole and _is_valid(whole) else None
    return refusal.model_copy(update={"reason": reason, "nearest_allowed": nearest})


def replaced(raw: dict[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with some replaced; a dotted name reaches into a mapping."""
    for name, value in arguments.items():
        outer, _, inner = name.partition(".")
        raw = {**raw, outer: {**raw.get(outer, {}), inner: value} if inner else value}
    return raw


def _is_valid(raw: dict[str, object]) -> bool:
    try:
        parse_command(raw)
    except CommandError:  # such as a step from which on it would be allowed, which is no field of it
        return False
    return True


def strictest(proposal: Proposal, rulings: Sequence[Verdict | ApprovalRequest]) -> Verdict | ApprovalRequest:
    """The strictest ruling: a refusal before a request before an approval; of requests the one that asks most.

    Args:
        proposal: The probe.
        rulings: On the probe itself, then on each candidate.
    """
    verdicts = [ruling for ruling in rulings if isinstance(ruling, Verdict)]
    refused = next((verdict for verdict in verdicts if verdict.decision != "approved"), None)
    if refused is not None:
        return refused
    requests = [ruling for ruling in rulings if isinstance(ruling, ApprovalRequest)]
    if not requests:
        return verdicts[0]
    # A person's yes counts for whatever a model could have said, and not the other way round.
    most = max(requests, key=lambda request: (request.asked == "human", len(request.approvers)))
    on_timeout = "reject" if any(request.on_timeout == "reject" for request in requests) else "approve"
    differences: list[Difference] = []
    for ruling in requests:
        differences += [difference for difference in ruling.differences if difference not in differences]
    update = {"digest": proposal.digest(), "on_timeout": on_timeout, "differences": differences}
    return most.model_copy(update=update)
