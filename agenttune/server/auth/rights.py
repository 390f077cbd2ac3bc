"""What each role may do, and what each route demands: the only table, checked before any route runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from starlette.requests import HTTPConnection

from agenttune.dashboard.static_files import ASSETS, LINK_ASSETS, METHODS, PAGES, ROOT_FILES
from agenttune.errors import Forbidden, Unauthorized, UnknownRun
from agenttune.protocol.events import Event
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Author, Principal
from agenttune.protocol.reads import QUERIES
from agenttune.protocol.run_info import RunInfo
from agenttune.server.auth.identity import Identity

PREFIX = "/api/v1"


class Right(str, Enum):
    """Something that can be done to runs."""

    OPEN = "see that there is a server"
    READ = "read runs"
    REPORT = "write findings"
    RECORD = "write what an agent does"
    PROPOSE = "propose commands"
    DECIDE = "decide on commands that wait"
    CHOOSE_POLICY = "ask for another policy"
    ANNOTATE = "tag runs and say whether a finding was right"
    RULES = "read the gate's rules and what was said to models"


ROLES: dict[Principal, frozenset[Right]] = {
    "viewer": frozenset({Right.OPEN, Right.READ}),
    "trainer": frozenset({Right.OPEN, Right.READ, Right.REPORT}),
    "agent": frozenset({Right.OPEN, Right.READ, Right.REPORT, Right.RECORD, Right.PROPOSE}),
    "operator": frozenset(Right),
}
_RUN = "/runs/{run_id}"
READABLE = ("/openapi.json", "/docs", "/commands", "/runs", "/overview")
ROUTES: dict[tuple[str, str], Right] = {
    ("GET", "/health"): Right.OPEN,
    ("GET", "/me"): Right.OPEN,
    **{(method, "/session"): Right.OPEN for method in ("POST", "DELETE")},
    **{
        (method, path): Right.OPEN for method in METHODS for path in (*PAGES, ASSETS, LINK_ASSETS, *ROOT_FILES)
    },  # nothing of a run
    **{("GET", path): Right.READ for path in READABLE},
    ("WS", f"{_RUN}/events/live"): Right.READ,
    **{("GET", f"{_RUN}/export/{name}"): Right.READ for name in ("events.jsonl", "metrics.csv")},
    ("POST", f"{_RUN}/commands"): Right.PROPOSE,
    ("POST", f"{_RUN}/records"): Right.REPORT,  # and what RECORDS says of its kind
    ("POST", f"{_RUN}/approvals/{{command_id}}"): Right.DECIDE,
    ("POST", f"{_RUN}/approvals/{{command_id}}/preview"): Right.DECIDE,
    **{("GET", f"/api/get_{part}/"): Right.READ for part in ("info", "dataset_info", "optimizer_info", "model_info")},
    **{("GET", f"/api/get_{part}/"): Right.READ for part in ("checkpoints", "logs")},
    ("POST", "/api/command/"): Right.PROPOSE,
    ("WS", "/ws/message/"): Right.READ,
    ("DELETE", f"{_RUN}/approvals/always/{{kind}}"): Right.DECIDE,
    **{(method, "/local/{run_id}"): Right.DECIDE for method in ("GET", "HEAD")},
    ("POST", "/local/{run_id}/{command_id}"): Right.DECIDE,
    **{(method, "/links/{token}"): Right.OPEN for method in ("GET", "HEAD", "POST")},  # the token is its own proof
    ("GET", "/links/{token}/request"): Right.OPEN,
    **{("POST", f"/links/{{token}}/{what}"): Right.OPEN for what in ("preview", "decision")},
    ("WS", "/{path:path}"): Right.READ,  # says that there is no such stream
}
"""By method and path, the paths of our own API without its prefix; `all_routes` has those of the reads too."""
RECORDS: dict[str, Right] = {
    "found": Right.REPORT,
    **dict.fromkeys(("decided", "policy_attached", "policy_detached", "model_called"), Right.RECORD),
    "policy_requested": Right.CHOOSE_POLICY,
    **dict.fromkeys(("tags_changed", "finding_judged"), Right.ANNOTATE),
}
HIDDEN_RULES = frozenset({"gate", "budgets", "probation"})
"""Parts of a run's rules that only `Right.RULES` shows: who is to be held by them need not study them."""


def all_routes() -> dict[tuple[str, str], Right]:
    """What each route demands. A route that is not here is refused to everyone."""
    # A model with norms, which makes the trainer measure, wants PROPOSE.
    return ROUTES | {("GET", f"{_RUN}{query.path}"): Right[query.right.upper()] for query in QUERIES}


def require(identity: Identity | None, right: Right) -> Identity:
    """Who asks, if it may.

    Raises:
        Forbidden: It may not; says which roles may and how to come by one.
    """
    if identity is None:
        raise Unauthorized("this server wants a token", field="Authorization")
    if right not in ROLES[identity.principal]:
        able = [role for role, rights in ROLES.items() if right in rights]
        who = f"the token {identity.via} is for the role" if identity.via else "without a token you act in the role"
        raise Forbidden(
            f"to {right.value}, the role {' or '.join(able)} is wanted; {who} {identity.principal}. Make a token with: "
            f"agenttune token create --role {able[0]} --name NAME",
            field="Authorization",
            allowed=able,
        )
    return identity


def require_recorder(identity: Identity, run_id: str, kind: str) -> None:
    """Raises Forbidden for who may not write such a record into this run's log.

    What others obey (costs count against budgets, decisions let training go on, findings wake policies) is taken from
    the run's own agent, not from every program that may propose commands.
    """
    require(identity, RECORDS[kind])
    if identity.principal == "agent" and not identity.is_for(run_id):
        raise Forbidden(
            f"a record {kind!r} is taken from the run's own agent, the one that `agenttune run` or `agenttune attach` "
            "has started there, which has a token for this run alone; make one with: "
            f"agenttune token create --role agent --name NAME --run {run_id}",
            field="Authorization",
            allowed=["operator", f"agent, for {run_id} alone"],
        )


def require_run(identity: Identity, run_id: str) -> None:
    """Raises UnknownRun for a run that the token is not for: whether there is one is not told."""
    if not identity.sees(run_id):
        raise UnknownRun(f"no run {run_id!r:.80} among those that this token is for", field="run_id", allowed=[])


def require_author(identity: Identity, claimed: Author) -> Author:
    """The author to record: as claimed, with the token; never of a higher role than that of who asks."""
    if not ROLES[claimed.principal] <= ROLES[identity.principal]:
        raise Forbidden(
            f"the role {identity.principal} cannot ask as {claimed.principal}: leave 'author.principal' out, or make a "
            f"token with: agenttune token create --role {claimed.principal} --name NAME",
            field="author.principal",
            allowed=[identity.principal],
        )
    return claimed.model_copy(update={"via": identity.via})


async def authorise(connection: HTTPConnection) -> None:
    """Every route's first dependency: the table."""
    method = "WS" if connection.scope["type"] == "websocket" else connection.scope["method"]
    path = str(connection.scope["route"].path).removeprefix(PREFIX)
    right = all_routes().get((method, path))
    if right is None:
        raise Forbidden(f"nobody may use {method} {path}: no right is declared for it in the server's table")
    if right is Right.OPEN:
        return
    identity = require(connection.state.identity, right)
    run_id = connection.path_params.get("run_id")
    if run_id is not None and run_id != "latest":
        require_run(identity, run_id)


def shown_info(info: RunInfo, identity: Identity) -> RunInfo:
    """A run as this role may see it."""
    if Right.RULES in ROLES[identity.principal]:
        return info
    return info.model_copy(update={"rules": _without(info.rules, HIDDEN_RULES), "standing": []})


def _without(rules: Mapping[str, object], hidden: frozenset[str]) -> dict[str, object]:
    return {name: part for name, part in rules.items() if name not in hidden}


def shown_events(events: Sequence[Event], identity: Identity) -> list[Event]:
    """Events as this role may see them."""
    if Right.RULES in ROLES[identity.principal]:
        return list(events)
    return [without_texts(event) for event in events]


def without_texts(event: Event) -> Event:
    """A call of a model without what was said: its prompts hold the policy's instructions."""
    if not isinstance(event.body, ModelCalled):
        return event
    return event.model_copy(update={"body": event.body.model_copy(update={"messages": [], "answer": None})})
