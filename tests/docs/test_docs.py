"""The reference pages say what the code does, and every example in them is valid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agenttune.protocol.commands import COMMAND_KINDS, parse_command
from docs.generate import DOCS, OPENAPI, PAGES, commands_page, openapi_text

ROOT = DOCS.parent


@pytest.mark.parametrize("name", PAGES)
def test_reference_pages_are_current(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run python docs/generate.py"


def test_the_dashboards_types_are_made_from_what_the_server_offers() -> None:
    assert (ROOT / OPENAPI).read_text(encoding="utf-8") == openapi_text(), "run python docs/generate.py"


@pytest.mark.parametrize("kind", COMMAND_KINDS)
def test_every_command_stands_in_the_table_with_an_example_that_can_be_sent(kind: str) -> None:
    [row] = [line for line in commands_page().splitlines() if line.startswith(f"| `{kind}` |")]
    [example] = re.findall(r"`(\{.*\})` \|$", row)
    command = parse_command(json.loads(example))
    assert command.kind == kind
    assert f"| {command.risk.value} |" in row
    for field in type(command).model_fields.keys() - {"kind"}:
        assert f"`{field}`" in row


def test_command_bodies_in_the_readme_are_valid() -> None:
    bodies = re.findall(r"-d '(\{.*?\})'", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert bodies
    for body in bodies:
        parse_command(json.loads(body)["command"])


def test_links_in_the_docs_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))]
    missing = [(page.name, link) for page, link in links if "://" not in link and not Path(page.parent, link).exists()]
    assert missing == []


def test_files_that_the_design_names_are_there() -> None:
    named = set(re.findall(r"`([\w./]+/(?:\w+\.py)?)`", (DOCS / "design.md").read_text(encoding="utf-8")))
    assert len(named) > 20
    assert (
        sorted(name for name in named if not (ROOT / "agenttune" / name).exists() and not (ROOT / name).exists()) == []
    )
