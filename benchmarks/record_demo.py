"""Records the rescue that `agenttune demo` plays, from two real runs that differ in one answer of a person.

    python -m benchmarks.record_demo

Trains `benchmarks/demo_training.py` twice with the same seed, whose rate gets far too high, with guardian beside it and
a rule by which going back to a checkpoint waits for a person. A first run gets a yes, a second one a no. Both logs
become one file, `agenttune/replay/demo_rescue.json.xz`: what both have before the answer once, and what came after it
twice. Nothing is invented; figures are rounded to six digits, and names of folders are left out.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from agenttune.control import LocalControl
from agenttune.control.control import ApprovalDecision
from agenttune.protocol.events import Event
from agenttune.protocol.metrics import StoredPoint, encode_number
from agenttune.protocol.proposals import Author, CommandRecord
from agenttune.replay.demo_recording import FILE, DemoRecording
from agenttune.store.run_log import RunLog

ROOT = Path(__file__).resolve().parents[1]
BEFORE_S, AFTER_S = 20.0, 22.0
"""How long each part is when it is played: both, and an answer, within a minute."""
DIGITS = 6
SKIPPED = frozenset({"decision_awaited", "notified", "weights_sampled", "logged"})
"""Of the log only: how the recording waited for decisions, and what rows of metrics say already."""
EVERYTHING = 1_000_000
PERSON = Author(principal="operator", name="the person of the recording")
CONFIG = """
run:
  script: {script}
  args: [--lr, '{lr}', --warmup-steps, '{warmup}', --steps, '{steps}']
  name: demo
policy: guardian
wake: {{mode: lockstep}}
goal: {{metric: eval_loss}}
gate:
  approval:
    - {{name: going back, risks: [danger], approvers: [human], training: pause, timeout_s: 3600}}
    - {{name: the rest, approvers: [auto]}}
store: {{runs_dir: runs}}
server: {{port: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lr", default="2.6")
    parser.add_argument("--warmup-steps", default="220")
    parser.add_argument("--steps", default="320")
    parser.add_argument("--output", type=Path, default=ROOT / "agenttune" / "replay" / FILE)
    parser.add_argument("--runs", type=Path, help="keep both runs in this folder, or take those that are there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agenttune-record-") as folder:
        home = args.runs or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        logs = [train(home / verdict, verdict, args) for verdict in ("approve", "reject")]
        recording = recording_of(*logs)
        for log in logs:
            log.close()
    packed = lzma.compress(recording.model_dump_json().encode(), preset=9 | lzma.PRESET_EXTREME)
    args.output.write_bytes(packed)
    print(f"wrote {args.output}: {len(packed):,} bytes")


def train(home: Path, verdict: str, args: argparse.Namespace) -> RunLog:
    """One run with the same answer to every request."""
    if not home.exists():
        home.mkdir()
        script = ROOT / "benchmarks" / "demo_training.py"
        config = CONFIG.format(script=script, lr=args.lr, warmup=args.warmup_steps, steps=args.steps)
        (home / "demo.yaml").write_text(config, encoding="utf-8")
        stop = threading.Event()
        person = threading.Thread(target=answer, args=(home / "runs", verdict, stop))
        person.start()
        try:
            command = [sys.executable, "-m", "agenttune", "run", "demo.yaml"]
            subprocess.run(command, cwd=home, check=True, stdin=subprocess.DEVNULL)
        finally:
            stop.set()
            person.join()
    (run,) = LocalControl(home / "runs").runs()
    return RunLog.open(home / "runs" / run.run_id)


def answer(runs_dir: Path, verdict: str, stop: threading.Event) -> None:
    """Give every request the same answer."""
    control = LocalControl(runs_dir)
    while not stop.wait(0.2):
        for info in control.runs():
            for record in control.pending(info.run_id):
                assert record.request is not None
                decision = ApprovalDecision.model_validate(
                    {"verdict": verdict, "digest": record.request.digest, "author": PERSON}
                )
                control.decide(info.run_id, record.command_id, decision)


def recording_of(yes: RunLog, no: RunLog) -> DemoRecording:
    """Both logs as one recording.

    Raises:
        SystemExit: Nobody was asked, or the two runs differ before the answer.
    """
    parts = [Parts.of(log) for log in (yes, no)]
    asked, other = (part.asked for part in parts)
    names = same_names(parts[1].before, parts[0].before)
    if (_words(asked), asked.submitted_step) != (_words(other, names), other.submitted_step):
        raise SystemExit(f"the runs differ before the answer: {asked.command.words} and {other.command.words}")
    info = yes.info()
    rules = {name: part for name, part in info.rules.items() if name in ("gate", "budgets", "probation", "wake")}
    card = {
        "name": "rescue",
        "goal_metric": info.goal_metric,
        "goal_direction": info.goal_direction,
        "max_steps": info.max_steps,
        "rules": rules,
        "tags": ["demo"],
    }
    return DemoRecording.model_validate(
        {
            "info": card,
            "asked": asked.command_id,
            "before": timed(parts[0].before, BEFORE_S),
            "approved": timed(parts[0].after, AFTER_S),
            "rejected": timed(parts[1].after, AFTER_S, names),
        }
    )


def _words(record: CommandRecord, names: dict[str, str] | None = None) -> str:
    words = record.command.words
    for name, other in (names or {}).items():
        words = words.replace(name, other)
    return words


def same_names(of: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, str]:
    """Ids that are drawn anew in each run, of commands and checkpoints, as the other run has them."""
    found: dict[str, str] = {}
    for kind, name in (("proposed", "command_id"), ("checkpoint_saved", "checkpoint_id")):
        pairs = [[e for e in part if e.get("body", {}).get("kind") == kind] for part in (of, other)]
        for mine, theirs in zip(*pairs, strict=False):
            inner = (mine, theirs) if kind == "proposed" else (mine["body"], theirs["body"])
            found[inner[0][name]] = inner[1][name]
    return found


class Parts:
    """A log around the first request that waited for a person: entries with the time at which each was written."""

    def __init__(self, asked: CommandRecord, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
        self.asked, self.before, self.after = asked, before, after

    @classmethod
    def of(cls, log: RunLog) -> Parts:
        events = log.events(limit=EVERYTHING)
        requests = [event for event in events if event.body.kind == "approval_requested"]
        if not requests or requests[0].command_id is None:
            raise SystemExit("nobody was asked in this run; try another --lr")
        asked = log.command(requests[0].command_id)
        judged = next(e for e in events if e.body.kind == "judged" and e.command_id == asked.command_id)
        entries = [_row(row) for row in log.points(0, EVERYTHING)]
        entries += [_event(event) for event in events if event.body.kind not in SKIPPED and event is not judged]
        entries.sort(key=lambda entry: (entry["at_s"], "values" not in entry))
        before = [entry for entry in entries if entry["at_s"] <= judged.at_s]
        return cls(asked, before, [entry for entry in entries if entry["at_s"] > judged.at_s])


def timed(entries: list[dict[str, Any]], length_s: float, names: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Entries at even distances from step to step, however long each took; ids of commands under other names."""
    order = list(dict.fromkeys((entry["branch"], entry["step"]) for entry in entries if "values" in entry))
    place = {at: i for i, at in enumerate(order)}
    done, found = 0, []
    for entry in entries:
        done = max(done, place.get((entry["branch"], entry["step"]), done))
        told = {name: value for name, value in entry.items() if name != "at_s"}
        found.append({"after_s": round(length_s * done / max(1, len(order)), 2), **told})
    text = json.dumps(found)
    for name, other in (names or {}).items():
        text = text.replace(name, other)
    renamed: list[dict[str, Any]] = json.loads(text)
    return renamed


def _row(row: StoredPoint) -> dict[str, Any]:
    values = {name: encode_number(_short(value)) for name, value in row.values.items()}
    return {"at_s": row.at_s, "step": row.step, "branch": row.branch, "source": row.source, "values": values}


def _event(event: Event) -> dict[str, Any]:
    body = json.loads(event.body.model_dump_json())
    told = {"step": event.step, "branch": event.branch, "command_id": event.command_id, "body": _clean(body)}
    return {"at_s": event.at_s, **told}


UNTOLD = frozenset(
    {"via", "pid_started_s", "host", "boot_id", "requested_boot_s", "awaited_seq", "folder", "output_dir"}
)


def _clean(part: Any) -> Any:
    """Without what belongs to the machine: folders by their last name, no processes; numbers rounded."""
    if isinstance(part, dict):
        return {name: 0 if name == "pid" else _clean(value) for name, value in part.items() if name not in UNTOLD}
    if isinstance(part, list):
        return [_clean(value) for value in part]
    if isinstance(part, float):
        return _short(part)
    if isinstance(part, str) and part.startswith("/"):
        return Path(part).name
    return part


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else value


if __name__ == "__main__":
    started_s = time.monotonic()
    main()
    print(f"took {time.monotonic() - started_s:.0f} s")
