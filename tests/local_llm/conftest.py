"""A real language model, served by llama.cpp in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from agenttune.config import BudgetSettings, LlmSettings, Price
from agenttune.llm import OpenAIChat

START_LIMIT_S = 60.0
FREE = Price(input_usd=1.0, output_usd=4.0)
"""Made up, to see money counted."""


@dataclass(frozen=True)
class LocalServer:
    """A server process.

    Attributes:
        base_url: For `llm.base_url`.
        process: Ends when its standard input is closed.
    """

    base_url: str
    process: subprocess.Popen[bytes]

    def llm(self, protocol: str = "auto") -> LlmSettings:
        """Settings for this server. Whatever bounds a string in a schema must fit into an answer: the model rambles."""
        given = {
            "model": "smollm2-135m",
            "base_url": self.base_url,
            "protocol": protocol,
            "temperature": 0.0,
            "max_output_tokens": 300,
            "prices": {"smollm2-135m": FREE},
        }
        return LlmSettings.model_validate(given)

    def chat(self, protocol: str = "auto") -> OpenAIChat:
        return OpenAIChat(self.llm(protocol), BudgetSettings(), environ={})

    def wait_until_ready(self) -> None:
        """Wait until it has read its weights."""
        for attempt in Retrying(
            retry=retry_if_exception_type(httpx.HTTPError),
            stop=stop_after_delay(START_LIMIT_S),
            wait=wait_fixed(0.1),
            reraise=True,
        ):
            with attempt:
                assert self.process.poll() is None, "the server has ended"
                httpx.get(f"{self.base_url}/models", timeout=5).raise_for_status()


@contextmanager
def started(log: Path) -> Iterator[LocalServer]:
    """A server on a free port, which may not listen yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Threads that spin while they wait make everything else on a busy machine slower, and themselves (measured: 13x).
    environ = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(Path(__file__).with_name("serve.py")), str(port)]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=environ) as process,
    ):
        yield LocalServer(f"http://127.0.0.1:{port}/v1", process)
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with started(tmp_path_factory.mktemp("llm") / "server.log") as running:
        running.wait_until_ready()
        yield running
