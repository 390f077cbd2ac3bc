"""The command that reverts a change, built from the previous values in its ack."""

from __future__ import annotations

from agenttune.errors import CommandError
from agenttune.protocol.commands import CommandBase, parse_command
from agenttune.protocol.proposals import CommandRecord


def inverse_of(record: CommandRecord) -> CommandBase | None:
    """The command that writes back what an applied one changed; None where no single command can."""
    ack = record.ack
    command = None if ack is None or not ack.changes else record.command.in_force(ack)
    if ack is None or command is None:
        return None
    raw = command.inverse(ack.changes)
    try:
        return None if raw is None else parse_command(raw)
    except CommandError:  # a value of before that no command may set, such as an endless one
        return None
