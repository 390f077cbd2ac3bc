"""What a page shows of a request, and from its form to a decision."""

from __future__ import annotations

from dataclasses import replace

from agenttune.control import Decision, LocalControl
from agenttune.errors import AlreadyDecided, UserError
from agenttune.protocol.deadlines import now_for
from agenttune.protocol.events import RunInfo
from agenttune.protocol.proposals import ApprovalRequest, Author, CommandRecord, State
from agenttune.server.pages.form_fields import edited, fields_of
from agenttune.server.pages.rendering import Form, Shown
from agenttune.server.pages.request_text import asked_of, curves_around


class NotDecided(Exception):
    """Nothing was decided, and the form can be mended: a control-flow signal with what to say."""


def shown(
    control: LocalControl, info: RunInfo, record: CommandRecord, request: ApprovalRequest, action: str = ""
) -> Shown:
    """A request with the form that decides on it."""
    asked = asked_of(record, request, info, now_for(request, control.now()))
    return Shown(asked, curves_around(control, info, request), fields_of(record.proposal.command), action)


def shown_again(
    control: LocalControl, info: RunInfo, record: CommandRecord, request: ApprovalRequest, form: Form, wrong: NotDecided
) -> Shown:
    """The same with what somebody typed, to be mended; its form goes where it went."""
    fields = fields_of(record.proposal.command, form.values)
    return replace(shown(control, info, record, request), fields=fields, reason=form.reason, error=str(wrong))


def decide_by_form(
    control: LocalControl, run_id: str, record: CommandRecord, form: Form, digest: str, author: Author
) -> CommandRecord:
    """Decide as a form says.

    Raises:
        NotDecided: The values in it make no edit, or one that is not allowed.
        UserError: As for `Control.decide`.
    """
    command = None
    if form.verdict != "reject" and record.state is State.PROPOSED:
        try:
            command = edited(record.proposal.command, form.values)
        except UserError as error:
            raise NotDecided(str(error)) from error
    if form.verdict == "approve" and command is not None:
        raise NotDecided("you changed a value: press 'Run with these values', or put it back and approve")
    if form.verdict == "edit" and command is None and record.state is State.PROPOSED:
        raise NotDecided("these are the values that were asked for: change one, or approve")
    given = {"verdict": form.verdict, "digest": digest, "author": author, "reason": form.reason, "command": command}
    try:
        return control.decide(run_id, record.command_id, Decision.model_validate(given))
    except AlreadyDecided:
        raise
    except UserError as error:
        if form.verdict != "edit":
            raise
        raise NotDecided(str(error)) from error
