"""What axe-core, a checker of accessibility, says of a page."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import agenttune.dashboard

SOURCE = Path(agenttune.dashboard.__file__).parent / "web" / "node_modules" / "axe-core" / "axe.min.js"
HEAVY = ("serious", "critical")


@cache
def _axe() -> str:
    if not SOURCE.exists():
        pytest.skip("axe-core is not installed: make test-e2e, or npm ci in agenttune/dashboard/web")
    return SOURCE.read_text("utf-8")


def faults(page: Any) -> list[str]:
    """Serious and critical faults of a page as it stands, each with where it is."""
    # Evaluated by the browser's own tools, which the page's content security policy does not hold back.
    page.evaluate(_axe())
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:200]} {node['failureSummary'][:300]}"
        for fault in found
        if fault["impact"] in HEAVY
        for node in fault["nodes"][:3]
    ]
