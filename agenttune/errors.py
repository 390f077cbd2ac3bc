"""Every error agenttune raises, drawn as a tree.

AgenttuneError
├── UserError                what you asked for cannot be done as asked; the message says how to fix it
│   ├── ConfigError          a config or policy file is wrong (file, line, key)
│   ├── PluginFault          a class of the user's own cannot be imported or made
│   ├── CommandError         a command is malformed, unknown or out of bounds
│   │   └── CommandIdReused  the id belongs to a different command
│   ├── AlreadyDecided       somebody decided on this proposal before, or it no longer waits
│   ├── TooManyProposals     an agent asks for more than the gate takes in a minute
│   ├── UnknownRun           no such run in the runs folder
│   ├── UnknownCommandId     no such command in the run's log
│   ├── RunEnded             the run no longer takes commands
│   ├── PortInUse            the control server's port is taken
│   ├── Unauthorized         no token, or one that does not (any longer) count
│   ├── Forbidden            the role of who asks does not allow it
│   ├── BudgetSpent          a cap on calls, tokens or money is reached
│   ├── TaskDataMissing      data or weights of a benchmark task are not on this machine
│   └── NotSupported         this trainer cannot do that (yet)
└── SystemFault              the machine or another process failed
    ├── StoreFault           the run's log cannot be read or written
    │   ├── LogExists        there is a log in that folder already
    │   └── LogFull          nothing more can be written to it: its disk is full
    ├── TokensUnusable       the folder's tokens cannot be read, or others could have read or written them
    ├── ServerUnreachable    the control server does not answer
    ├── ModelUnavailable     the language model's endpoint does not answer, or not with an answer
    ├── RanksApart           the processes of one training no longer are alike, or one is gone
    │   └── RankEnded        one of them has come to its end before the others
    └── RunFailed            the training process ended with an error
"""

from __future__ import annotations

from typing import Any


class AgenttuneError(Exception):
    """Base of all errors raised on purpose by agenttune."""


class UserError(AgenttuneError):
    """The request cannot be carried out as asked.

    Args:
        message: What was asked, what is allowed and how to fix it.
        field: Dotted path of the offending field, where there is one.
        allowed: The values, names or bounds that would have been accepted.
    """

    def __init__(self, message: str, *, field: str | None = None, allowed: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.allowed = allowed


class ConfigError(UserError):
    """A configuration or policy file is wrong; the message starts with `file:line: key`."""


class PluginFault(UserError):
    """A class of the user's own cannot be imported or made: its code raised, ended the process or took too long."""


class CommandError(UserError):
    """A command is malformed, unknown or out of bounds."""


class CommandIdReused(CommandError):
    """The `command_id` was already used for a different command."""


class AlreadyDecided(UserError):
    """Somebody decided on this proposal before, or it no longer waits for a decision."""


class TooManyProposals(UserError):
    """An agent asks for more than the gate takes in a minute; nothing was recorded."""


class UnknownRun(UserError):
    """No run of that id in the runs folder."""


class UnknownCommandId(UserError):
    """No command of that id in the run's log."""


class RunEnded(UserError):
    """The run has ended and takes no more commands."""


class PortInUse(UserError):
    """Another process listens on the control server's port."""


class Unauthorized(UserError):
    """No token, or one that does not (any longer) count."""


class Forbidden(UserError):
    """The role of who asks does not allow it."""


class BudgetSpent(UserError):
    """A cap on calls, tokens or money of the language model is reached."""


class TaskDataMissing(UserError):
    """Data or weights of a benchmark task are not on this machine; the message says how to get them."""


class NotSupported(UserError):
    """The attached trainer cannot do what the command asks."""


class SystemFault(AgenttuneError):
    """The machine or another process failed."""


class RanksApart(SystemFault):
    """The processes of one training no longer are alike, or one is gone; training must not go on.

    Unlike any other error of ours within a step, it ends the training: going on would spoil it in silence.
    """


class RankEnded(RanksApart):
    """One process of a training has come to its end before the others; they train on, but take no more commands."""


class StoreFault(SystemFault):
    """The run's log cannot be read or written."""


class LogExists(StoreFault):
    """There is a log in that folder already: another run's."""


class LogFull(StoreFault):
    """Nothing more can be written to a run's log: its disk is full, or takes nothing any more. It can still be read."""


class TokensUnusable(SystemFault):
    """The tokens of a runs folder cannot be read, or others than their owner could have read or written them."""


class ServerUnreachable(SystemFault):
    """The control server does not answer."""


class ModelUnavailable(SystemFault):
    """The language model's endpoint does not answer, or not with an answer; retries were made.

    Args:
        message: What went wrong.
        call: The record of the failed call, for the log.
    """

    def __init__(self, message: str, call: Any = None) -> None:
        super().__init__(message)
        self.call = call

    @property
    def calls(self) -> list[Any]:
        """The failed call, or nothing."""
        return [] if self.call is None else [self.call]


class RunFailed(SystemFault):
    """The training process ended with an error."""
