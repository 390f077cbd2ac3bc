"""The same in a real Jupyter kernel, as a notebook runs it: what stands in its file afterwards."""

from __future__ import annotations

import html
import re
from pathlib import Path

import httpx
import pytest

from agenttune.control.discovery import ensure_server
from tests.server.conftest import make_run, stop

HOW = "pip install nbclient ipykernel"
pytest.importorskip("ipykernel", reason=HOW)
nbclient = pytest.importorskip("nbclient", reason=HOW)
nbformat = pytest.importorskip("nbformat", reason=HOW)
TIMEOUT_S = 120
SHOW = "import agenttune\nagenttune.show('one')"


def run_cell(folder: Path, code: str) -> dict[str, str]:
    """What a notebook in a folder keeps of its one cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client = nbclient.NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(folder)}})
    done = client.execute()
    nbformat.validate(done)
    outputs = [output for output in done.cells[0].outputs if output.output_type != "stream"]
    assert [output.output_type for output in outputs] == ["execute_result"]
    return dict(outputs[0].data)


@pytest.mark.slow  # quicker: test_notebook.py, without a kernel; make test-e2e runs this too
def test_a_notebook_shows_the_live_page_and_a_picture_without_it(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    make_run(runs_dir, "one", steps=50).close()
    (runs_dir / ".server.lock").mkdir()  # nobody can start one here
    away = run_cell(tmp_path, SHOW)["text/html"]
    assert "The page of this run cannot be shown" in away
    assert "<svg" in away
    assert "<object" not in away
    (runs_dir / ".server.lock").rmdir()
    address = ensure_server(runs_dir, port=0)
    try:
        data = run_cell(tmp_path, SHOW)
        page = data["text/html"]
        frame = re.search(r'<object [^>]*data="([^"]+)"', page)
        tab = re.search(r'<a href="([^"]+)"', page)
        assert frame is not None
        assert tab is not None
        with httpx.Client(trust_env=False, follow_redirects=True) as browser:
            shown = browser.get(html.unescape(frame[1]))  # signs in, by the key of this output
            assert (shown.status_code, str(shown.url)) == (200, f"{address.url}/runs/one")
            assert browser.get(f"{address.url}/api/v1/me").json()["role"] == "operator"
            assert browser.get(f"{address.url}/api/v1/runs/one").json()["step"] == 50
        with httpx.Client(trust_env=False) as later:  # the link beside it works without a key, by the local role
            assert later.get(html.unescape(tab[1])).status_code == 200
            assert later.get(f"{address.url}/api/v1/me").json()["via"] == "local"
            assert later.get(f"{address.url}/api/v1/runs/one").json()["run_id"] == "one"
        assert "<svg" in page[page.index("<object") : page.index("</object>")]  # in its place once the server has ended
        assert data["text/plain"].startswith("run one: running at step 50")
    finally:
        stop(address)
