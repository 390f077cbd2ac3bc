"""No test reaches a provider by accident, whatever the developer's own environment holds; and what makes all faster."""

from __future__ import annotations

import functools
import gc
import os
import ssl
from collections.abc import Sequence
from fnmatch import fnmatchcase

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


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first: whoever begins one at the end works on alone for minutes."""
    mark_slow_cases(items, some_only=any("::" in argument for argument in config.args))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def mark_slow_cases(items: Sequence[pytest.Item], some_only: bool) -> None:
    """Of a test with the mark `quick`, each case that it does not name is slow. Raises UsageError: it names none."""
    unmet: dict[str, set[str]] = {}
    for item in items:
        if (mark := item.get_closest_marker("quick")) is None or not isinstance(item, pytest.Function):
            continue
        names: set[str] = unmet.setdefault(item.nodeid.partition("[")[0], set(mark.args))
        met = [name for name in mark.args if fnmatchcase(item.callspec.id, name)]
        names.difference_update(met)
        if not met:
            item.add_marker("slow")
    wrong = {test: sorted(names) for test, names in unmet.items() if names}
    if wrong and not some_only:
        raise pytest.UsageError(f"the mark quick names cases that are not there: {wrong}")


def pytest_collection_finish() -> None:
    pass_over_what_stays()
    gc.enable()


@pytest.hookimpl(trylast=True)  # after all that the file's tests have made
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if nextitem is None or nextitem.path != item.path:
        pass_over_what_stays()


def pass_over_what_stays() -> None:
    """Each end of a training collects garbage, a second long where torch's and transformers' objects are looked at."""
    gc.collect()
    gc.freeze()
