"""No test reaches a provider by accident, whatever the developer's own environment holds; and what makes all faster."""

from __future__ import annotations

import functools
import gc
import os
import ssl

import pytest
from hypothesis import settings

from agenttune.llm import REMOTE_ENV

# Reading the tests makes much and throws little away; `pytest_collection_finish` lets it collect again.
gc.disable()

# Before any test module is read, so that processes started by tests inherit it.
os.environ[REMOTE_ENV] = "off"
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
    os.environ.pop(name, None)

# How long an example takes is the machine's matter.
settings.register_profile("agenttune", deadline=None)
settings.load_profile("agenttune")

# Reading all certificate authorities takes 50 ms, for each of a thousand clients of which none speaks TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: whoever begins one at the end works on alone for minutes."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Each end of a training collects garbage, a second long where torch's and transformers' objects are looked at."""
    gc.collect()
    gc.freeze()
    gc.enable()
