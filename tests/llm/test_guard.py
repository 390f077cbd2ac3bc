"""No test can reach a provider by accident, not even one that has a key."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agenttune.errors import UserError
from agenttune.llm import REMOTE_ENV
from agenttune.llm.endpoints import is_local
from tests.llm.clients import ask, client


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "http://192.0.2.1:8080/v1", "https://example.invalid/v1"])
def test_an_endpoint_elsewhere_is_refused_before_anything_is_sent(url: str) -> None:
    chat = client(url, environ={"OPENAI_API_KEY": "some-key"})
    with pytest.raises(UserError, match="is not on this machine"):
        ask(chat)
    with pytest.raises(UserError, match="is not on this machine"):
        client(url, protocol="auto").check_capabilities("p")
    assert chat.spent.calls == 0


def test_processes_that_tests_start_are_held_back_too() -> None:
    code = (
        "from agenttune.llm.endpoints import check_allowed\n"
        "try: check_allowed('https://api.openai.com/v1')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "UserError"


def test_the_developers_own_key_is_not_in_the_tests_environment() -> None:
    assert os.environ[REMOTE_ENV] == "off"
    assert "OPENAI_API_KEY" not in os.environ


def test_what_counts_as_this_machine() -> None:
    assert all(map(is_local, ["http://127.0.0.1:1/v1", "http://localhost/v1", "http://[::1]:8/v1"]))
    assert all(
        map(is_local, ["http://0.0.0.0:1/v1", "http://vllm.localhost:8/", "http://LOCALHOST./", "http://127.1/"])
    )
    assert all(map(is_local, ["https://[::ffff:127.0.0.1]/v1", "http://[::]:8000/v1", "http://127.8.9.10/v1"]))
    assert not any(map(is_local, ["http://[::1", "http://", "http://1.127/", ""]))
    assert not any(
        map(is_local, ["http://localhost.example.org/", "http://10.0.0.1/", "http://127.0.0.1.example.org/"])
    )
