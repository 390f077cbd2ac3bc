"""What the agent beside a run is doing now, by the newest of what it wrote: a fold of the log that reads little."""

from __future__ import annotations

from collections.abc import Callable

from agenttune.protocol.agent_status import AgentStatus, Doing
from agenttune.protocol.events import Decided, DecisionAwaited, Event, PolicyAttached, PolicyRequested
from agenttune.protocol.proposals import State
from agenttune.protocol.run_info import RunInfo
from agenttune.store.run_log import RunLog

IsAlive = Callable[[PolicyAttached], bool | None]
"""Whether the process of an agent lives; None where that cannot be told, as of another machine."""
ATTACHING = ("policy_attached", "policy_detached")
LOOKS_BEFORE_AN_ANSWER = 20
"""A request is answered at the next look, but for those that were under way (guess)."""
ATTACHED_BEFORE = 20
"""Newest comings that are looked through for another policy: an agent that is started again comes anew (guess)."""


def agent_status(log: RunLog, info: RunInfo, is_alive: IsAlive) -> AgentStatus:
    """The agent beside a run, as its log tells of it."""
    came = _newest(log, *ATTACHING)
    attached = came.body if came is not None and isinstance(came.body, PolicyAttached) else None
    if attached is None and not info.is_live:  # the agent of a run that has ended has left it
        last = _newest(log, "policy_attached")
        came, attached = last, last.body if last is not None and isinstance(last.body, PolicyAttached) else None
    wanted = _newest(log, "policy_requested")
    requested, refused = None, ""
    # Only an agent obeys: where the policy has left, its process has ended, and a request stays what it is.
    if wanted is not None and isinstance(wanted.body, PolicyRequested) and info.is_live and came and attached:
        refused = _refusal(log, wanted.seq, wanted.body)
        requested = (wanted.body.policy or "") if wanted.seq > came.seq and not refused else None
    look = None if came is None or attached is None else _last_look(log, came.seq)
    said = look.body if look is not None and isinstance(look.body, Decided) else None
    waiting = log.count_commands(State.PROPOSED, principal="agent") if info.is_live else 0
    doing, words = _doing(log, info, attached, requested, look, waiting, is_alive)
    calls = log.model_calls_between(0, log.last_seq())
    return AgentStatus(
        doing=doing,
        words=words,
        policy=None if attached is None else attached.policy,
        attached_at_s=None if came is None or attached is None else came.at_s,
        requested=requested,
        refused=refused,
        previous=_previous(log, attached),
        last_look_step=None if look is None or said is None else _step_of(look, said),
        last_look_at_s=None if look is None else look.at_s,
        last_reason="" if said is None else said.reason,
        looks=log.count_events("decided").get("decided", 0),
        proposals=log.count_commands(principal="agent"),
        waiting=waiting,
        models=list(dict.fromkeys(call.model for call in calls)),
        last_call_at_s=calls[-1].at_s if calls else None,
        spent=log.spent_on_models(0, log.last_seq()),
    )


def _refusal(log: RunLog, seq: int, request: PolicyRequested) -> str:
    """Why its policy stays though another was asked for, such as a name that there is not; empty: it did not say so."""
    looks = log.events(since=seq, kinds=["decided"], limit=LOOKS_BEFORE_AN_ANSWER)
    said = (look.body.reason for look in looks if isinstance(look.body, Decided) and _answers(look.body, request))
    return next(said, "")


def _answers(decided: Decided, request: PolicyRequested) -> bool:
    return decided.woken_by == request.words


def _last_look(log: RunLog, since: int) -> Event | None:
    """The newest look of the policy that came then; what it answered to a request for another one is none."""
    asked = {
        event.body.words
        for event in log.events(kinds=["policy_requested"], limit=LOOKS_BEFORE_AN_ANSWER, newest=True)
        if isinstance(event.body, PolicyRequested)
    }
    looks = log.events(since=since, kinds=["decided"], limit=LOOKS_BEFORE_AN_ANSWER, newest=True)
    return next((e for e in reversed(looks) if isinstance(e.body, Decided) and e.body.woken_by not in asked), None)


def _previous(log: RunLog, attached: PolicyAttached | None) -> str | None:
    came = log.events(kinds=["policy_attached"], limit=ATTACHED_BEFORE, newest=True)
    names = [event.body.policy for event in reversed(came) if isinstance(event.body, PolicyAttached)]
    return next((name for name in names if attached is None or name != attached.policy), None)


def _newest(log: RunLog, *kinds: str) -> Event | None:
    found = log.events(kinds=kinds, limit=1, newest=True)
    return found[0] if found else None


def _step_of(look: Event, said: Decided) -> int | None:
    return look.step if said.based_on_step is None else said.based_on_step


def _doing(
    log: RunLog,
    info: RunInfo,
    attached: PolicyAttached | None,
    requested: str | None,
    look: Event | None,
    waiting: int,
    is_alive: IsAlive,
) -> tuple[Doing, str]:
    if not info.is_live:
        by = f"; {attached.policy} was beside it" if attached is not None else ""
        return "ended", f"The run is {info.status}{by}."
    if requested is not None:
        what = f"The policy {requested} was asked for" if requested else "The policy was asked to leave"
        return "asked", f"{what}; the agent obeys at its next look."
    if attached is None:
        return "none", "No policy is beside this run: nobody changes it but people. agenttune attach brings one."
    if is_alive(attached) is False:
        return "lost", f"The process of {attached.policy} is gone: nobody looks at this run."
    awaited, decided = _newest(log, "decision_awaited"), _newest(log, "decided")
    is_open = awaited is not None and (decided is None or awaited.seq > decided.seq)
    if is_open and awaited is not None and isinstance(awaited.body, DecisionAwaited):
        return "held", f"Training waits at step {awaited.step} for {attached.policy} to decide: {awaited.body.reason}."
    if waiting:
        what = "one request of its waits" if waiting == 1 else f"{waiting} requests of its wait"
        return "waiting", f"{attached.policy} watches; {what} for approval."
    since = "it has not looked yet"
    if look is not None and isinstance(look.body, Decided):
        step = _step_of(look, look.body)
        since = f"its last recorded look was {'before the first step' if step is None else f'at step {step}'}"
    return "watching", f"{attached.policy} watches; {since}."
