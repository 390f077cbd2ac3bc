"""`Control` over HTTP: asks a control server what `LocalControl` asks the runs folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from agenttune import errors
from agenttune.control.control import AgentRecord, ApprovalDecision, Control
from agenttune.errors import AgenttuneError, ServerUnreachable, SystemFault, UnknownRun, UserError
from agenttune.protocol.dry_run import DryRun
from agenttune.protocol.overview import OverviewQuery, RunsOverview
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, StandingApproval
from agenttune.protocol.reads import MAX_ROWS, R, RunQuery
from agenttune.protocol.run_info import RunInfo

M = TypeVar("M", bound=BaseModel)
TokenSource = Callable[[], str | None]
PATH_FIELD = re.compile(r"\{(\w+)(?::path)?\}")
NOT_SEGMENTS = frozenset({"", ".", ".."})
"""What a URL's path cannot name: clients and servers drop them."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class HttpControl(Control):
    """`Control` of the runs of a control server. Safe to share between threads.

    Args:
        url: The server's address, such as `http://127.0.0.1:7007`.
        token: A bearer token, or what gives one for each request, such as `owner_token.OwnerToken`; None: without.
        timeout_s: Longest time to connect, and to wait for an answer beyond what was asked to wait for.

    Raises:
        ServerUnreachable: Any method, when the server does not answer.
        UserError: Any method, as the server's own classes: `UnknownRun`, `RunEnded`, `CommandError`, ...
    """

    def __init__(self, url: str, token: TokenSource | str | None = None, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=f"{self.url}/api/v1",
            timeout=timeout_s,
            verify=not url.startswith("http://"),  # without TLS, reading all authorities would be 50 ms for nothing
            # A proxy of the environment is for the outside world; it cannot reach this machine's loopback.
            trust_env=urlsplit(url).hostname not in LOOPBACK,
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> HttpControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def runs(self) -> list[RunInfo]:
        """The newest runs (at most 10,000), newest first."""
        return _models(RunInfo, self._ask("GET", "/runs", 0.0, params={"limit": MAX_ROWS})["runs"])

    def overview(self, query: OverviewQuery) -> RunsOverview:
        """The list of runs, newest first."""
        return _model(RunsOverview, self._ask("GET", "/overview", 0.0, params=query.model_dump(mode="json")))

    def read(self, run_id: str, query: RunQuery[R]) -> R:
        in_path = query.path_fields()
        given = query.model_dump(mode="json", exclude_none=True)
        parts = [str(given.pop(name)) for name in in_path]
        path = _run(run_id) + PATH_FIELD.sub(lambda field: _segment(parts[in_path.index(field[1])]), query.path)
        body = self._ask("GET", path, given.get("wait_s", 0.0), params=given)
        return cast(R, _model(query.answer_type(), body))

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        """Ask for a command; the time of the proposal is the server's."""
        return _model(CommandRecord, self._post(_run(run_id, "commands"), _submission(proposal)))

    def dry_run(self, run_id: str, proposal: Proposal) -> DryRun:
        body = self._post(_run(run_id, "commands"), _submission(proposal), dry_run=True)
        return _model(DryRun, body)

    def decide(self, run_id: str, command_id: str, decision: ApprovalDecision) -> CommandRecord:
        """Decide on a proposal that waits, as a person with an operator's token: models decide beside the log."""
        body = decision.model_dump(mode="json", exclude={"author", "approver"}, exclude_none=True)
        body["name"] = decision.author.name
        return _model(CommandRecord, self._post(_run(run_id, "approvals", command_id), body))

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        body = self._ask("DELETE", _run(run_id, "approvals", "always", kind), 0.0, params={"name": author.name})
        return _models(StandingApproval, body["standing"])

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        entry = {"record": json.loads(body.model_dump_json()), "step": step}
        return int(self._post(_run(run_id, "records"), entry)["seq"])

    def _post(self, path: str, body: object, /, **parameters: Any) -> Any:
        return self._ask("POST", path, 0.0, params=parameters, json=body)

    def _ask(self, method: str, path: str, wait_s: float, **request: Any) -> Any:
        try:
            timeout = httpx.Timeout(self._timeout_s, read=self._timeout_s + wait_s)
            response = self._http.request(method, path, timeout=timeout, headers=self._headers(), **request)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise ServerUnreachable(f"the control server at {self.url} does not answer: {what}") from error
        if response.is_success:
            return _decoded(response)
        raise _error(response)

    def _headers(self) -> dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}


def _run(run_id: str, *parts: str) -> str:
    if run_id in NOT_SEGMENTS:
        raise UnknownRun(f"no run {run_id!r}", field="run_id")
    return "/".join(["/runs", quote(run_id, safe=""), *map(_segment, parts)])


def _segment(part: str) -> str:
    if part in NOT_SEGMENTS:
        raise UserError(f"none of {sorted(NOT_SEGMENTS)} can be asked for by its name over HTTP")
    return quote(part, safe="")


def _model(model: type[M], row: Any) -> M:
    try:
        return model.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SystemFault(f"the server speaks another version: {model.__name__}.{where}: {first['msg']}") from None


def _models(model: type[M], rows: list[Any]) -> list[M]:
    return [_model(model, row) for row in rows]


def _submission(proposal: Proposal) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(proposal.model_dump_json(exclude={"created_at_s": True, "author": {"via"}}))
    return body


def _decoded(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        raise ServerUnreachable(f"{response.url} does not answer as a control server does: not JSON") from None


def _error(response: httpx.Response) -> AgenttuneError:
    """The error that the server met, as the same class as there."""
    body = _decoded(response)
    problem = body.get("error") if isinstance(body, dict) else None
    if not isinstance(problem, dict):
        return ServerUnreachable(f"{response.url} answers {response.status_code}, but is no control server")
    kind, message = getattr(errors, str(problem.get("type")), None), str(problem.get("message"))
    if isinstance(kind, type) and issubclass(kind, UserError):
        return kind(message, field=problem.get("field"), allowed=problem.get("allowed"))
    if isinstance(kind, type) and issubclass(kind, SystemFault):
        return kind(message)
    if response.status_code < 500:
        return UserError(message, field=problem.get("field"), allowed=problem.get("allowed"))
    return SystemFault(message)
