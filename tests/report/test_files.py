"""Reports as files: the export loses nothing, an archive can be read, and nobody's file is overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from agenttune import __version__
from agenttune.errors import StoreFault, UserError
from agenttune.protocol.events import Event, NoteAdded
from agenttune.protocol.metrics import Point
from agenttune.store.journal.goal_metric import EVERYTHING
from agenttune.store.run_log import LOG_NAME, RunLog, list_runs
from agenttune.views.report import html, jsonl, markdown, read_journal, read_jsonl
from tests.cli.conftest import agenttune
from tests.report.conftest import EVIL, Night, eventful

# -- the export --------------------------------------------------------------------------------------------------------


def test_an_export_read_back_gives_equal_events(tmp_path: Path) -> None:
    log = eventful(tmp_path / "runs", words=EVIL).log
    lines = list(jsonl(log))
    assert all("\n" not in line for line in lines)
    events = list(read_jsonl(lines))
    recorded = log.events(limit=EVERYTHING)
    # NaN is not equal to itself; its JSON is.
    assert [e.model_dump_json() for e in events] == [e.model_dump_json() for e in recorded]
    assert [e.seq for e in events] == list(range(1, log.last_seq() + 1))


def test_each_line_says_what_it_is(night: Night) -> None:
    header, *rest = map(json.loads, jsonl(night.log))
    assert header["format"] == "agenttune-events"
    assert (header["format_version"], header["agenttune_version"]) == (1, __version__)
    assert (header["run"]["run_id"], header["last_seq"]) == ("night", len(rest))
    assert list(rest[0]) == ["seq", "at_s", "step", "branch", "command_id", "kind", "body"]
    assert {line["kind"] for line in rest} >= {"proposed", "judged", "acked", "settled", "model_called", "note_added"}
    assert all(line["kind"] == line["body"]["kind"] for line in rest)


def test_an_export_goes_on_where_the_last_one_ended(night: Night) -> None:
    last = night.log.last_seq()
    night.log.append(NoteAdded(text="later", author="anna"))
    [header, line] = map(json.loads, jsonl(night.log, since=last))
    assert (header["since"], line["seq"], line["body"]["text"]) == (last, last + 1, "later")
    with pytest.raises(UserError, match=f"give 0 to {last + 1}"):
        list(jsonl(night.log, since=last + 2))


def test_an_export_does_not_run_after_a_live_log(night: Night) -> None:
    lines = jsonl(night.log)
    header = json.loads(next(lines))
    night.log.append(NoteAdded(text="meanwhile", author="anna"))
    assert len(list(lines)) == header["last_seq"]


@pytest.mark.parametrize("text", ["", "hello", "{}", '{"format": "agenttune-events", "format_version": 99}'])
def test_what_is_no_export_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="no header of agenttune-events"):
        list(read_jsonl([text]))


# -- logs that cannot be written, or read ------------------------------------------------------------------------------


def whole(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reports(log: RunLog) -> tuple[str, str, list[Event]]:
    journal = read_journal(log, now_s=0.0)
    return html(log, journal), markdown(journal), list(read_jsonl(jsonl(log)))


def test_an_archived_run_is_read_without_a_trace(night: Night) -> None:
    expected = reports(night.log)
    night.log.append_points([Point(step=301, at_s=0.0, values={"step_loss": 1.5}, branch="retry")])
    night.close()
    before = whole(night.folder)
    assert list(before) == [LOG_NAME]
    with contextlib.closing(RunLog.open_read_only(night.folder)) as log:
        page, text, events = reports(log)
        assert log.curve("step_loss", "retry").steps[-1] == 301, "what no reader had counted yet is drawn too"
        with pytest.raises(StoreFault, match="readonly"):
            log.append(NoteAdded(text="no", author="anna"))
    assert whole(night.folder) == before
    assert len(events) == len(expected[2])
    assert "lr 0.015 -" in page
    assert "lr 0.015 -" in text


def test_what_a_killed_writer_left_is_read_too(night: Night, tmp_path: Path) -> None:
    archived = tmp_path / "archive" / "night"
    archived.mkdir(parents=True)
    for name in (LOG_NAME, f"{LOG_NAME}-wal"):
        shutil.copyfile(night.folder / name, archived / name)
    before = whole(archived)
    with contextlib.closing(RunLog.open_read_only(archived)) as log:
        assert log.last_seq() == night.log.last_seq()
        assert "lr 0.015 -" in reports(log)[0]
    assert whole(archived) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_reports_of_a_read_only_folder(night: Night, tmp_path: Path) -> None:
    night.close()
    night.folder.chmod(0o555)
    try:
        assert [info.run_id for info in list_runs(night.folder.parent)] == ["night"]
        assert agenttune("report", "--output", "out.html", cwd=tmp_path).code == 0
    finally:
        night.folder.chmod(0o755)


@pytest.mark.parametrize("format_", ["terminal", "markdown", "html", "jsonl"])
def test_a_damaged_log_gives_an_error_and_no_file(night: Night, tmp_path: Path, format_: str) -> None:
    night.close()
    path = night.folder / LOG_NAME
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[:4096] + b"\xff" * (len(whole_file) - 4096))
    result = agenttune("report", "night", "--format", format_, "--output", "out", cwd=tmp_path)
    assert result.code == 1
    assert "the log in" in result.err
    assert "malformed" in result.err
    assert not [p for p in tmp_path.iterdir() if p.name != "runs"]


def test_a_log_of_another_version_says_so(night: Night, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(night.folder / LOG_NAME)) as connection:
        connection.execute("UPDATE events SET body = '{\"kind\": \"from_the_future\"}' WHERE kind = 'decided'")
        connection.commit()
    result = agenttune("report", "night", cwd=tmp_path)
    assert result.code == 1
    assert "damaged or was written by another version of agenttune" in result.err
    exported = agenttune("report", "night", "--format", "jsonl", cwd=tmp_path)
    assert "from_the_future" in exported.out, "the export hands on what it need not understand"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("r.html", "<!DOCTYPE html>"),
        ("r.md", "# night running"),
        ("r.jsonl", '{"format": '),
        ("r.txt", "night running"),
    ],
)
def test_the_suffix_says_what_is_written(night: Night, tmp_path: Path, name: str, begins: str) -> None:
    result = agenttune("report", "--output", name, cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.out == ""
    assert f"wrote {name}" in result.err
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)
    assert {p.name for p in tmp_path.iterdir()} == {"runs", name}


def test_a_pipe_gets_what_was_asked_for(night: Night, tmp_path: Path) -> None:
    assert agenttune("report", "--format", "html", cwd=tmp_path).out.startswith("<!DOCTYPE html>")
    lines = agenttune("report", "nig", "--format", "jsonl", "--since", "3", cwd=tmp_path).out.splitlines()
    assert json.loads(lines[1])["seq"] == 4


def test_nothing_is_overwritten_unasked(night: Night, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("mine", encoding="utf-8")
    refused = agenttune("report", "--output", "r.html", cwd=tmp_path)
    assert refused.code == 2
    assert "--force" in refused.err
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == "mine"
    assert agenttune("report", "--output", "r.html", "--force", cwd=tmp_path).code == 0
    assert "night" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "pdf"), "give one of terminal, markdown, html, jsonl"),
        (("--output", "r.pdf"), "suffix does not say"),
        (("--output", "nowhere/r.md"), "name a file in a folder that exists"),
        (("--since", "3"), "--since works with --format jsonl only"),
        (("--format", "jsonl", "--since", "999999"), "this log has events 1 to"),
        (("--format", "jsonl", "--since", "-1"), "this log has events 1 to"),
        (("--json", "--format", "html"), "two formats"),
    ],
)
def test_bad_requests_are_told_how_to_mend(
    night: Night, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    result = agenttune("report", *arguments, cwd=tmp_path)
    assert result.code == 2
    assert words in result.err
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}
