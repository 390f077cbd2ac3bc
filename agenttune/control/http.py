"""`Control` over HTTP: asks a control server what `LocalControl` asks the runs folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from agenttune import errors
from agenttune.control import CHECKPOINT_KINDS, MOST_CHECKPOINTS, AgentRecord, Decision, existing_checkpoints
from agenttune.errors import AgenttuneError, ServerUnreachable, SystemFault, UnknownRun, UserError
from agenttune.protocol.events import (
    BranchStarted,
    Curve,
    DatasetRead,
    Event,
    KnobState,
    ModuleInfo,
    RunInfo,
    SeriesInfo,
    StoredPoint,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Author, CommandRecord, Proposal, StandingApproval, State, Verdict
from agenttune.protocol.summary import Intervention

M = TypeVar("M", bound=BaseModel)
TokenSource = Callable[[], str | None]
PAGE = 10_000
"""Most entries that the server gives at once."""
WAIT_S = 30.0
"""Longest single wait asked of the server (it allows 60); longer ones are asked in turns."""
NOT_SEGMENTS = frozenset({"", ".", ".."})
"""What a URL's path cannot name: clients and servers drop them."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class HttpControl:
    """`Control` of the runs of a control server. Safe to share between threads.

    Args:
        url: The server's address, such as `http://127.0.0.1:7007`.
        token: A bearer token, or what gives one for each request, such as `owner.OwnerToken`; None: without.
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
        return _models(RunInfo, self._get("/runs", limit=PAGE)["runs"])

    def info(self, run_id: str) -> RunInfo:
        return _model(RunInfo, self._get(_run(run_id)))

    def observe(self, run_id: str) -> Observation:
        return _model(Observation, self._get(_run(run_id, "observation")))

    def events(
        self,
        run_id: str,
        since: int = 0,
        limit: int = 1000,
        wait_s: float = 0.0,
        kinds: Sequence[str] | None = None,
    ) -> list[Event]:
        deadline = time.monotonic() + wait_s
        found: list[Event] = []
        while len(found) < limit:
            left = 0.0 if found else min(WAIT_S, max(0.0, deadline - time.monotonic()))
            asked = min(PAGE, limit - len(found))
            path = _run(run_id, "events")
            body = self._get(path, since=since, limit=asked, wait_s=left, kinds=list(kinds or []))
            page = _models(Event, body["events"])
            found += page
            since = body["next"]
            if len(page) < asked and (found or time.monotonic() >= deadline):
                break
        return found

    def submit(self, run_id: str, proposal: Proposal) -> CommandRecord:
        """Ask for a command; the time of the proposal is the server's."""
        return _model(CommandRecord, self._post(_run(run_id, "commands"), _submission(proposal)))

    def dry_run(self, run_id: str, proposal: Proposal) -> Verdict:
        body = self._post(_run(run_id, "commands"), _submission(proposal), dry_run=True)
        return _model(Verdict, body)

    def pending(self, run_id: str) -> list[CommandRecord]:
        return _models(CommandRecord, self._get(_run(run_id, "approvals"))["commands"])

    def decide(self, run_id: str, command_id: str, decision: Decision) -> CommandRecord:
        """Decide on a proposal that waits, as a person with an operator's token: models decide beside the log."""
        body = decision.model_dump(mode="json", exclude={"author", "approver"}, exclude_none=True)
        body["name"] = decision.author.name
        return _model(CommandRecord, self._post(_run(run_id, "approvals", command_id), body))

    def end_standing_approval(self, run_id: str, kind: str, author: Author) -> list[StandingApproval]:
        body = self._ask("DELETE", _run(run_id, "approvals", "always", kind), 0.0, params={"name": author.name})
        return _models(StandingApproval, body["standing"])

    def command(self, run_id: str, command_id: str, wait_s: float = 0.0) -> CommandRecord:
        """One command; with `wait_s` (at most 60), waits for its ack."""
        path = _run(run_id, "commands", command_id)
        return _model(CommandRecord, self._get(path, wait_s=wait_s))

    def commands(self, run_id: str, states: Sequence[State] = (), limit: int = 1000) -> list[CommandRecord]:
        body = self._get(_run(run_id, "commands"), state=[s.value for s in states], limit=min(limit, PAGE))
        return _models(CommandRecord, body["commands"])

    def record(self, run_id: str, body: AgentRecord, step: int | None = None) -> int:
        entry = {"record": json.loads(body.model_dump_json()), "step": step}
        return int(self._post(_run(run_id, "records"), entry)["seq"])

    def knobs(self, run_id: str) -> list[KnobState]:
        return _models(KnobState, self._get(_run(run_id, "knobs"))["knobs"])

    def series(self, run_id: str, branch: str = "main") -> list[SeriesInfo]:
        return _models(SeriesInfo, self._get(_run(run_id, "metrics"), branch=branch)["series"])

    def curve(
        self,
        run_id: str,
        metric: str,
        branch: str = "main",
        first_step: int = 0,
        last_step: int | None = None,
        max_points: int = 1000,
    ) -> Curve:
        bounds: dict[str, Any] = {"first_step": first_step, "max_points": max_points, "branch": branch}
        if last_step is not None:
            bounds["last_step"] = last_step
        return _model(Curve, self._get(_run(run_id, "metrics", metric), **bounds))

    def points(self, run_id: str, since: int = 0, limit: int = 1000) -> list[StoredPoint]:
        body = self._get(_run(run_id, "points"), since=since, limit=min(limit, PAGE))
        return _models(StoredPoint, body["points"])

    def checkpoints(self, run_id: str) -> list[Event]:
        """`checkpoint_saved` events of the checkpoints that still exist, oldest first."""
        return existing_checkpoints(self.events(run_id, limit=MOST_CHECKPOINTS, kinds=CHECKPOINT_KINDS))

    def model(self, run_id: str, *, norms: bool = False, layer: str = "", wait_s: float = 10.0) -> ModuleInfo | None:
        """The model's layers as last read; with `norms`, as the trainer measures them now, within `wait_s` (<= 60)."""
        body = self._get(_run(run_id, "model"), norms=norms, layer=layer, wait_s=wait_s)["model"]
        return None if body is None else _model(ModuleInfo, body)

    def dataset(self, run_id: str) -> DatasetRead | None:
        """The training dataset as last read."""
        body = self._get(_run(run_id, "dataset"))["dataset"]
        return None if body is None else _model(DatasetRead, body)

    def history(self, run_id: str, limit: int = 50) -> list[Intervention]:
        body = self._get(_run(run_id, "history"), limit=min(limit, PAGE))
        return _models(Intervention, body["history"])

    def model_calls(self, run_id: str) -> list[ModelCalled]:
        return _models(ModelCalled, self._get(_run(run_id, "model-calls"))["calls"])

    def branches(self, run_id: str) -> list[BranchStarted]:
        return _models(BranchStarted, self._get(_run(run_id, "branches"))["branches"])

    def _get(self, path: str, /, **parameters: Any) -> Any:
        return self._ask("GET", path, parameters.get("wait_s", 0.0), params=parameters)

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
    if NOT_SEGMENTS.intersection(parts):
        raise UserError(f"none of {sorted(NOT_SEGMENTS)} can be asked for by its name over HTTP")
    return "/".join(["/runs", *(quote(part, safe="") for part in (run_id, *parts))])


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
