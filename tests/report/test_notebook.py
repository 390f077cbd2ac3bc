"""A run in a notebook: the live page, and a picture where that does not come."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import agenttune
from agenttune.control.discovery import ServerAddress
from agenttune.errors import UnknownRun
from tests.server.conftest import make_run, stop
from tests.warm import serve

HOSTILE = '<img onerror="alert(1)">'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServerAddress]:
    make_run(tmp_path, "one", steps=50, goal_metric=HOSTILE).close()
    address = serve(tmp_path)
    yield address
    stop(address)


def test_the_output_is_the_page_signed_in_once_with_a_picture_in_its_place(
    served: ServerAddress, tmp_path: Path
) -> None:
    bundle = agenttune.show("one", runs_dir=tmp_path)._repr_mimebundle_()
    page = bundle["text/html"]
    found = re.search(r'<object [^>]*data="([^"]+)"', page)
    assert found is not None
    link = found[1].replace("&amp;", "&")
    assert link.startswith(f"{served.url}/runs/one?key=")
    with httpx.Client(trust_env=False) as browser:
        answer = browser.get(link)  # as the browser does that shows the output
        assert answer.status_code == 303
        assert answer.headers["location"] == "/runs/one"
        assert browser.get(f"{served.url}/api/v1/me").json()["role"] == "operator"
    with httpx.Client(trust_env=False) as other:  # whoever opens the notebook's file later
        other.get(link)
        assert other.get(f"{served.url}/api/v1/me").json()["role"] != "operator"
    assert '<path class="line on"' in page[page.index("<object") : page.index("</object>")]
    assert HOSTILE not in page
    assert "<script" not in page
    assert bundle["text/plain"] == "run one: running at step 50, loss 0.02"


def test_without_a_server_it_is_the_picture_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path, "one", steps=50).close()
    (tmp_path / ".server.lock").mkdir()  # nobody can start one here
    page = agenttune.show("one", runs_dir=tmp_path)._repr_html_()
    assert "The page of this run cannot be shown: cannot use" in page
    assert "<object" not in page
    assert "<svg" in page


def test_a_run_is_found_by_its_beginning_or_as_the_newest_and_else_the_names_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "alpha", steps=1).close()
    make_run(tmp_path, "beta", steps=1).close()
    monkeypatch.setenv("AGENTTUNE_RUNS_DIR", str(tmp_path))
    assert agenttune.show().run_id == "beta"
    assert agenttune.show("al").run_id == "alpha"
    with pytest.raises(UnknownRun, match="there are: beta, alpha"):
        agenttune.show("gamma")
