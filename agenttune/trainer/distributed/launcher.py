"""Runs torchrun or `accelerate launch` unchanged, and writes down which ranks failed and how.

    python -m agenttune.trainer.distributed.launcher torchrun --nproc-per-node=2 train.py

Both print that as a table for people; here it is kept for `agenttune run`, which tells it in one sentence.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

FAILURES = "AGENTTUNE_RANK_FAILURES"
"""The file to write."""
NO_FILE = "<NONE>"
"""What torch has for the message of a rank that left no error file."""


def main(words: list[str]) -> None:
    """Start what the first word names, with the others as its arguments."""
    pass_over_broken_error_files()
    try:
        _start(words[0], words[1:])
    except ChildFailedError as error:
        path = os.environ.get(FAILURES)
        if path:
            leave_failures(Path(path), [_told(rank, failure) for rank, failure in error.failures.items()])
        raise


def leave_failures(path: Path, found: list[dict[str, object]]) -> None:
    """Write the file, which appears whole or not at all: a second Ctrl-C kills this process at any moment."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(found), encoding="utf-8")
    aside.replace(path)


def pass_over_broken_error_files() -> None:
    """Let a rank that left half an error file count as one that left none.

    torch's `record` writes that file in two steps, and on half of one (its rank was killed meanwhile, or the disk is
    full) torchrun fails with a parser's error instead of saying which ranks failed.
    """
    read: Callable[[ProcessFailure], None] = ProcessFailure.__post_init__

    def read_or_pass_over(failure: ProcessFailure) -> None:
        try:
            read(failure)
        except (ValueError, KeyError, TypeError) as fault:
            sys.stderr.write(f"error file of rank {failure.local_rank} of this machine is broken: {fault}\n")
            failure.error_file = ""
            read(failure)

    ProcessFailure.__post_init__ = read_or_pass_over  # type: ignore[method-assign]


def _start(name: str, arguments: list[str]) -> None:
    if name == "accelerate":
        from accelerate.commands.launch import launch_command, launch_command_parser

        launch_command(launch_command_parser().parse_args(arguments))
    else:
        from torch.distributed import run as torchrun

        start: Callable[[Namespace], None] = torchrun.run  # which has no types of its own
        start(torchrun.get_args_parser().parse_args(arguments))


def _told(rank: int, failure: ProcessFailure) -> dict[str, object]:
    """A failure as `RankFailure` reads it; what torch says to somebody without an error file is no message."""
    data = failure.error_file_data.get("message")
    message = data.get("message", "") if isinstance(data, dict) else "" if data == NO_FILE else data or ""
    place = {"rank": rank, "pid": failure.pid, "host": socket.gethostname()}
    return {**place, "exit_status": failure.exitcode, "message": message, "at_s": failure.timestamp}


if __name__ == "__main__":
    main(sys.argv[1:])
