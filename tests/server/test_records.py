"""What others obey in a run's log (costs, decisions, findings) comes from its own agent, in numbers that can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import example, given
from hypothesis import strategies as st

from agenttune.config import BudgetSettings
from agenttune.control.discovery import ServerAddress
from agenttune.control.owner_token import agent_token
from agenttune.control.tokens import create_token, read_tokens
from agenttune.llm.budget import cap_reached
from agenttune.protocol.model_calls import Cost, Ledger, ModelCalled, Usage
from agenttune.server.app import create_app
from agenttune.store.journal.run_summary import model_calls
from agenttune.store.run_log import RunLog
from tests.server.conftest import make_run
from tests.server.test_rights import RECORD_BODIES, bearer

RECORDS = "/api/v1/runs/one/records"
CALL = {"kind": "model_called", **RECORD_BODIES["model_called"]}
PERSONS = {"policy_requested", "tags_changed", "finding_judged"}
"""Of no agent, whosever it is: `test_rights.py`."""
AGENTS_OWN = [kind for kind in RECORD_BODIES if kind not in PERSONS]


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return make_run(tmp_path)


@pytest.fixture
def client(tmp_path: Path, log: RunLog) -> Iterator[TestClient]:
    with TestClient(create_app(tmp_path), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def agent(tmp_path: Path) -> dict[str, str]:
    return bearer(create_token(tmp_path, "agent", "agent", ["one"])[0])


@pytest.mark.parametrize("patterns", [None, [], ["*"], ["on*"], ["one", "two"]])
def test_a_program_that_may_only_propose_forges_no_record(
    tmp_path: Path, client: TestClient, log: RunLog, patterns: list[str] | None
) -> None:
    before = log.last_seq()
    headers = {} if patterns is None else bearer(create_token(tmp_path, "agent", "mcp", patterns)[0])
    for kind in AGENTS_OWN:
        answer = client.post(RECORDS, json={"record": {"kind": kind, **RECORD_BODIES[kind]}}, headers=headers)
        assert (kind, answer.status_code) == (kind, 403)
        assert "agenttune token create --role agent --name NAME --run one" in answer.text
        assert log.last_seq() == before


def test_the_runs_own_agent_is_believed(client: TestClient, agent: dict[str, str]) -> None:
    for kind in AGENTS_OWN:
        body = {"record": {"kind": kind, **RECORD_BODIES[kind]}}
        assert (kind, client.post(RECORDS, json=body, headers=agent).status_code) == (kind, 201)


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    (CALL | {"usd": -1000.0}, "usd"),
    (CALL | {"usd": "-1000"}, "usd"),
    (CALL | {"usd": "NaN"}, "usd"),
    (CALL | {"usd": "Infinity"}, "usd"),
    (CALL | {"usd": 1e300}, "usd"),
    (CALL | {"latency_s": -1.0}, "latency_s"),
    (CALL | {"latency_s": "NaN"}, "latency_s"),
    (CALL | {"attempts": -5}, "attempts"),
    (CALL | {"usage": {"input_tokens": -5}}, "input_tokens"),
    (CALL | {"usage": {"output_tokens": 2**62}}, "output_tokens"),
    (CALL | {"usage": {"input_tokens": 5, "cached_input_tokens": 6}}, "usage"),
    ({"kind": "decided", **RECORD_BODIES["decided"], "based_on_step": -1}, "based_on_step"),
    ({"kind": "decided", **RECORD_BODIES["decided"], "based_on_step": 2**60}, "based_on_step"),
    ({"kind": "found", "finding": RECORD_BODIES["found"]["finding"] | {"step": 2**60}}, "step"),
]


def test_figures_that_cannot_be_are_refused_from_it_too(client: TestClient, log: RunLog, agent: dict[str, str]) -> None:
    before = log.last_seq()
    for record, field in IMPOSSIBLE:
        answer = client.post(RECORDS, json={"record": record}, headers=agent)
        assert (record, answer.status_code) == (record, 422)
        assert answer.json()["error"]["field"].rpartition(".")[2] == field, record
        assert log.last_seq() == before


@given(
    forged=st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True) | st.none() | st.integers(-(10**9), 10**9),
            st.integers(-(2**62), 2**62),
        ),
        max_size=5,
    ),
    honest=st.integers(1, 20),
)
@example(forged=[(1e308, 0), (1e308, 0)], honest=1)
def test_no_record_of_an_older_log_lets_a_budget_go_on(forged: list[tuple[Any, int]], honest: int) -> None:
    """However they stand in the log: what was truly spent stays spent."""
    base = {name: value for name, value in CALL.items() if name != "kind"}
    calls = [ModelCalled(**base, usd=usd, usage=Usage(input_tokens=tokens)) for usd, tokens in forged]
    calls += [ModelCalled(**base, usd=0.01, usage=Usage(input_tokens=100))] * honest
    for spent in (Ledger.of(calls), Ledger.of(reversed(calls))):
        assert cap_reached(BudgetSettings(max_usd=0.01 * honest * 0.999), spent)
        assert cap_reached(BudgetSettings(max_tokens=100 * honest), spent)
    assert Cost.of(calls).usd >= 0.0099 * honest


def test_a_log_with_a_forged_cost_is_still_read(log: RunLog) -> None:
    text = ModelCalled(**{k: v for k, v in CALL.items() if k != "kind"}, usd=1.0).model_dump_json()
    ModelCalled.model_validate_json(text.replace('"usd":1.0', '"usd":-1000.0'))
    call = ModelCalled.model_construct(**{**CALL, "usd": -1000.0, "messages": [], "usage": None, "answer": None})
    log.append(call, step=1)
    [read] = model_calls(log)
    assert read.usd is None


def test_attach_gets_a_token_for_its_run_alone_that_ends_with_it(
    shared_server: ServerAddress, shared_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGENTTUNE_TOKEN", raising=False)
    make_run(shared_runs, "attached").close()
    with agent_token(shared_server.url, "attached") as token:
        assert token is not None
        [made] = read_tokens(shared_runs)
        assert (made.role, made.runs, made.ends_with_run) == ("agent", ("attached",), "attached")
    assert read_tokens(shared_runs) == []
    monkeypatch.setenv("AGENTTUNE_TOKEN", "given")
    with agent_token(shared_server.url, "attached") as token:
        assert token == "given"
