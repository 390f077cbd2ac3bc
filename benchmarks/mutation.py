"""Which small faults the tests do not notice: `python -m benchmarks.mutation agenttune/gate --tests tests/core`.

A mutation tester of our own, since the known ones miss most of this code or are slow on it: mutmut leaves out all that
is decorated (properties, dataclasses' methods, routes) and all that stands outside of functions, and cosmic-ray starts
a process for each fault, which then spends seconds on importing torch. Here everything is imported once, each test is
run once to learn which lines it reaches, and each fault is tried in a forked copy of that process, on the tests that
reach it, quickest first, until one fails. A fault at module level is imported anew there.

The faults are drawn at random, so many a file; with the same seed and source they are the same. What is left to a
person: whether a survivor is a promise without a test, code that nobody needs, or the same in all that matters.
"""

from __future__ import annotations

import argparse
import builtins
import gc
import json
import os
import pickle
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from itertools import takewhile
from pathlib import Path
from random import Random
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from benchmarks.mutants import Mutant, counting, sample

GRACE_S = 10.0
"""A fault may make tests wait; after this and some multiple of their usual time it counts as noticed."""
SLOWER = 20.0
KILLED, SURVIVED, UNREACHED, BROKEN = "killed", "survived", "not reached", "not run"
Place = tuple[str, int]


@dataclass
class Told:
    """What one run of each test told.

    Attributes:
        taken_s: Per test that passed, in seconds of the processor.
        reached: Lines of the files under test that it ran.
        failed: Tests that do not pass in a forked process, and are not used.
    """

    taken_s: dict[str, float] = field(default_factory=dict)
    reached: dict[str, set[Place]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


class Campaign:
    """A plug-in of pytest that, instead of running the collected tests once, runs them against each fault."""

    def __init__(
        self, files: list[Path], count: int | None, seed: int, slowest_s: float, budget_s: float, only: str
    ) -> None:
        self.results: list[dict[str, Any]] = []
        self._files = {str(file.resolve()): file for file in files}
        self._sources = {resolved: file.read_text() for resolved, file in self._files.items()}
        self._count, self._seed = count, seed
        self._slowest_s, self._budget_s, self._only = slowest_s, budget_s, only
        self.again: set[tuple[str, str, str]] | None = None
        """Of a former run: the file, and the statement before and after, of the faults to try; None: all drawn."""
        self._failed = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed = report.nodeid

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        functions = _functions_in(self._files)
        began = time.monotonic()
        told: Told = pickle.loads(
            _in_child(lambda: pickle.dumps(self._learn(list(items.values()), functions)), None) or b""
        )
        _say(f"{len(told.taken_s)} of {len(items)} tests pass, in {time.monotonic() - began:.0f} s")
        for name in told.failed:
            _say(f"  not used, it fails here: {name}")
        for resolved, file in self._files.items():
            drawn, known = sample(
                self._sources[resolved], self._count, Random(f"{self._seed} {file.as_posix()}"), self._only
            )
            if self.again is not None:
                drawn = [m for m in drawn if (file.as_posix(), m.before, m.after) in self.again]
            began = time.monotonic()
            for mutant in drawn:
                self._try(mutant, resolved, file, told, items, functions[resolved])
            counts = Counter(r["outcome"] for r in self.results if r["file"] == file.as_posix())
            took_s = time.monotonic() - began
            _say(f"{file.as_posix()}: {len(drawn)} of {known} faults, {dict(counts)}, {took_s:.0f} s")
        return True

    def _learn(self, items: list[pytest.Item], functions: dict[str, list[FunctionType]]) -> Told:
        """Runs each test, with every function of the files telling which of its lines it runs."""
        told, current = Told(), set[Place]()
        for number, (resolved, source) in enumerate(self._sources.items()):
            name = f"_mutation_hit_{number}"
            setattr(builtins, name, partial(_note, current, resolved))
            _put_in(compile(counting(source, name), resolved, "exec"), functions[resolved])
        for place, item in enumerate(items):
            self._failed = ""
            current.clear()
            began = time.process_time()  # whatever else this machine does
            _run(item, items[place + 1] if place + 1 < len(items) else None)
            if self._failed:
                told.failed.append(item.nodeid)
            else:
                told.taken_s[item.nodeid], told.reached[item.nodeid] = time.process_time() - began, set(current)
        return told

    def _try(
        self,
        mutant: Mutant,
        resolved: str,
        file: Path,
        told: Told,
        items: dict[str, pytest.Item],
        functions: list[FunctionType],
    ) -> None:
        if mutant.function:
            chosen = [name for name, reached in told.reached.items() if (resolved, mutant.line) in reached]
        else:
            chosen = [name for name, reached in told.reached.items() if any(place[0] == resolved for place in reached)]
        chosen, spent_s = sorted(chosen, key=lambda name: told.taken_s[name]), 0.0
        tests: list[str] = []
        for name in chosen:
            spent_s += told.taken_s[name]
            if told.taken_s[name] <= self._slowest_s and (spent_s <= self._budget_s or not tests):
                tests.append(name)
        outcome, by = (
            (UNREACHED, "") if not tests else self._outcome(mutant, resolved, tests, spent_s, items, functions)
        )
        self.results.append(
            {
                "file": file.as_posix(),
                "line": mutant.line,
                "operator": mutant.operator,
                "function": mutant.function,
                "before": mutant.before,
                "after": mutant.after,
                "outcome": outcome,
                "by": by,
                "tests": len(tests),
            }
        )
        if outcome != KILLED:
            _say(f"  {outcome} ({len(tests)}): {file.as_posix()}:{mutant.line} {mutant.operator}")
            _say("    - {}\n    + {}".format(*_where_they_differ(mutant.before, mutant.after)))

    def _outcome(
        self,
        mutant: Mutant,
        resolved: str,
        tests: list[str],
        usual_s: float,
        items: dict[str, pytest.Item],
        functions: list[FunctionType],
    ) -> tuple[str, str]:
        try:
            code = compile(mutant.source, resolved, "exec")
        except (SyntaxError, ValueError):
            return BROKEN, "does not compile"

        def work() -> bytes:
            if mutant.function and _put_in(code, functions):
                return self._first_failure([items[name] for name in tests]).encode()
            return _import_anew(code, resolved, tests).encode()

        answer = _in_child(work, GRACE_S + SLOWER * min(usual_s, self._budget_s))
        if answer is None:
            return KILLED, "time"
        return (KILLED, answer.decode()) if answer else (SURVIVED, "")

    def _first_failure(self, items: list[pytest.Item]) -> str:
        self._failed = ""
        for place, item in enumerate(items):
            _run(item, items[place + 1] if place + 1 < len(items) else None)
            if self._failed:
                break
        return self._failed


def _where_they_differ(before: str, after: str, around: int = 60) -> tuple[str, str]:
    """Two lines of code without what is the same far from the difference."""
    same = _alike(before, after)
    rest = min(_alike(before[::-1], after[::-1]), len(before) - same, len(after) - same)
    first = max(0, same - around)
    return before[first : len(before) - max(0, rest - around)], after[first : len(after) - max(0, rest - around)]


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _note(lines: set[Place], resolved: str, line: int) -> None:
    lines.add((resolved, line))


def _run(item: pytest.Item, following: pytest.Item | None) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def _say(text: str) -> None:
    print(text, file=sys.__stderr__, flush=True)


def _in_child(work: Callable[[], bytes], limit_s: float | None) -> bytes | None:
    """What a forked copy of this process answers; None if it does not in time, or dies."""
    with tempfile.NamedTemporaryFile() as answer:
        child = os.fork()
        if child == 0:
            os.setsid()
            silence = os.open(os.devnull, os.O_RDWR)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            try:
                Path(answer.name).write_bytes(b"+" + work())
            finally:
                os._exit(0)
        deadline = None if limit_s is None else time.monotonic() + limit_s
        pause_s = 0.002
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if deadline is not None and time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return None
            time.sleep(pause_s)
            pause_s = min(0.05, pause_s * 1.5)
        found = Path(answer.name).read_bytes()
        return found[1:] if found else None


def _functions_in(files: dict[str, Path]) -> dict[str, list[FunctionType]]:
    found: dict[str, list[FunctionType]] = defaultdict(list)
    gc.unfreeze()  # what tests/conftest.py froze is not listed
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename in files:
            found[thing.__code__.co_filename].append(thing)
    return found


def _codes_in(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_in(constant)


def _put_in(code: CodeType, functions: list[FunctionType]) -> bool:
    """Gives every function that exists its code of the changed module; False if one does not fit."""
    known: dict[tuple[str, int], list[CodeType]] = defaultdict(list)
    for one in _codes_in(code):
        known[one.co_name, one.co_firstlineno].append(one)
    held = {function.__code__ for function in functions}
    for function in functions:
        alike = known[function.__code__.co_name, function.__code__.co_firstlineno]
        if function.__code__ in alike:
            continue
        new = [one for one in alike if one not in held]  # of several lambdas in a line, that which changed
        if len(new) != 1 or new[0].co_freevars != function.__code__.co_freevars:
            return False
        function.__code__ = new[0]
    return True


class _Changed(MetaPathFinder, Loader):
    """Imports one module from changed code."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        is_package = self._path.endswith("__init__.py")
        spec = spec_from_loader(fullname, self, origin=self._path, is_package=is_package)
        if spec is not None and is_package:
            spec.submodule_search_locations = [str(Path(self._path).parent)]
        return spec

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


def _import_anew(code: CodeType, resolved: str, tests: list[str]) -> str:
    names = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == resolved]
    for name in [n for n in sys.modules if n.partition(".")[0] in {"agenttune", "tests"}]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Changed(names[0], resolved, code))
    plugin = _Failure()
    result = pytest.main(["-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests], plugins=[plugin])
    return plugin.name or ("" if result == 0 else f"pytest ended with {result}")


class _Failure:
    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.name = report.nodeid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="modules or folders of them")
    parser.add_argument("--tests", nargs="+", required=True, help="test files or folders")
    parser.add_argument("--per-file", type=int, default=25, help="faults drawn for each file; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slowest-s", type=float, default=2.0, help="a test that takes longer is not used")
    parser.add_argument("--budget-s", type=float, default=20.0, help="of tests for one fault")
    parser.add_argument("--only", default="", help="kinds of faults, as a pattern, such as 'call left out: clean$'")
    parser.add_argument("--again", type=Path, help="the JSON of a former run: only what survived it; draw all (0)")
    parser.add_argument("--out", type=Path, help="all outcomes, as JSON")
    asked = parser.parse_args()
    files = [f for path in asked.paths for f in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    campaign = Campaign(files, asked.per_file or None, asked.seed, asked.slowest_s, asked.budget_s, asked.only)
    if asked.again:
        former = json.loads(asked.again.read_text())
        campaign.again = {(r["file"], r["before"], r["after"]) for r in former if r["outcome"] != KILLED}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder
        # A folder of our own: other sessions of the same user clean up in the shared one.
        options = ["-s", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--basetemp={folder}/pytest"]
        pytest.main([*options, *asked.tests], plugins=[campaign])
    if asked.out:
        asked.out.write_text(json.dumps(campaign.results, indent=1))
    counts = Counter(result["outcome"] for result in campaign.results)
    _say(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


if __name__ == "__main__":
    main()
