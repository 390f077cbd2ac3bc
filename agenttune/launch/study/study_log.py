"""A study's journal: a file of JSON lines in a folder of its own, appended to and never edited."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ValidationError

from agenttune.errors import StoreFault, UnknownRun, UserError
from agenttune.launch.study.records import VERSION, StudyEntry, StudyStarted

JOURNAL_NAME = "study.jsonl"
LOOK_S = 1.0
"""Who only looks whether a study is worked on holds its lock for a moment (guess: far longer than that)."""
_WRITERS = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class StudyJournal:
    """The one writer of a study. Holds a lock on the file, which the system takes back when the process dies.

    Args:
        folder: Of the study; must exist.
        clock: Unix time in seconds.

    Raises:
        UserError: Another process is at work on this study.
        StoreFault: The file cannot be read or written; any method.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._path, self._clock = folder / JOURNAL_NAME, clock
        try:
            self._file = os.open(self._path, _WRITERS | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreFault(f"{self._path} cannot be opened: {error.strerror}") from None
        try:
            self._lock()
            self._drop_torn_line()
            self.entries = read_entries(folder)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        until_s = time.monotonic() + LOOK_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    problem = f"another process is at work on the study {self.folder.name}; wait for its end, or end it"
                    raise UserError(problem, field="study") from None
            time.sleep(0.01)

    def _drop_torn_line(self) -> None:
        """A writer that was killed in the middle of a line had not committed it."""
        content = self._path.read_bytes()
        if content and not content.endswith(b"\n"):
            os.ftruncate(self._file, content.rfind(b"\n") + 1)

    def append(self, body: BaseModel, number: int | None = None) -> StudyEntry:
        """Write one entry; it is on the disk when this returns."""
        entry = StudyEntry.model_validate({"at_s": self._clock(), "round": number, "body": body})
        line = entry.model_dump_json().encode() + b"\n"
        try:
            if os.write(self._file, line) != len(line):
                raise StoreFault(f"{self._path} cannot be written: the disk is full")
            os.fsync(self._file)
        except OSError as error:
            raise StoreFault(f"{self._path} cannot be written: {error.strerror}") from None
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        os.close(self._file)


def read_entries(folder: Path) -> list[StudyEntry]:
    """All committed entries of a study, oldest first.

    Raises:
        StoreFault: No such file, a line that is no entry, or a newer format.
    """
    path = folder / JOURNAL_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StoreFault(f"{path} cannot be read: {error.strerror}") from None
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


def _parse(path: Path, number: int, line: bytes) -> StudyEntry:
    try:
        return StudyEntry.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        newer = _version_of(line) > VERSION
        why = "it was written by a newer agenttune" if newer else f"{where}: {problem['msg']}"
        raise StoreFault(f"{path}:{number}: no entry of a study's journal: {why}") from None


def _version_of(line: bytes) -> int:
    try:
        version = json.loads(line)["version"]
    except (ValueError, LookupError, TypeError):
        return 0
    return version if isinstance(version, int) else 0


def is_worked_on(folder: Path) -> bool:
    """Whether a living process writes this study."""
    with (folder / JOURNAL_NAME).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def list_studies(runs_dir: Path) -> list[str]:
    """Ids of the studies in a folder of runs, newest first."""
    folders = [path.parent for path in runs_dir.glob(f"*/{JOURNAL_NAME}")]
    return [f.name for f in sorted(folders, key=lambda f: (_started_s(f), f.name), reverse=True)]


def _started_s(folder: Path) -> float:
    with (folder / JOURNAL_NAME).open("rb") as file:
        line = file.readline()
    try:
        return float(json.loads(line)["at_s"])
    except (ValueError, LookupError, TypeError):
        return 0.0


def find_study(runs_dir: Path, name: str = "") -> Path:
    """The folder of the study that a user means: the newest, an id, or the beginning of exactly one id.

    Raises:
        UnknownRun: There is none, or more than one.
    """
    ids = list_studies(runs_dir)
    if name in ids:
        return runs_dir / name
    matches = [i for i in ids if i.startswith(name)]
    if len(matches) == 1 or (matches and not name):
        return runs_dir / matches[0]
    if matches:
        problem = f"{len(matches)} studies begin with {name!r}: {', '.join(matches[:10])}"
    elif ids:
        problem = f"no study {name!r} in {runs_dir}; there are: {', '.join(ids[:10])}"
    else:
        problem = f"no studies in {runs_dir} yet; set rounds in the config file, then: agenttune run config.yaml"
    raise UnknownRun(problem, field="study", allowed=ids[:10])


def started(entries: list[StudyEntry], folder: Path) -> StudyStarted:
    """A journal's first entry.

    Raises:
        StoreFault: It is another, or there is none.
    """
    if not entries or not isinstance(entries[0].body, StudyStarted):
        raise StoreFault(f"{folder / JOURNAL_NAME} does not begin with the start of a study")
    return entries[0].body
