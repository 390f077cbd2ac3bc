"""Everything ever written to a run's log.

An event is immutable and has a `seq`, dense and increasing within its run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union, get_args

from pydantic import Field, TypeAdapter

from agenttune.protocol.commands import Command
from agenttune.protocol.findings import Finding
from agenttune.protocol.lr_course import LrCourse
from agenttune.protocol.metrics import Metric
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Ack, ApprovalRequest, Author, Proposal, Record, StandingApproval, Verdict
from agenttune.protocol.rank_reads import RanksRead
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.run_info import MOST_TAGS, KnobState, ModuleInfo, RunStatus, Tag
from agenttune.protocol.weight_looks import WeightLook


class RunStarted(Record):
    kind: Literal["run_started"] = "run_started"
    framework: str = Field(description="The training loop, with its version.")
    pid: int
    max_steps: int | None = None
    capabilities: list[str] = Field(default_factory=list, description="Commands this trainer can apply.")
    details: dict[str, Any] = Field(default_factory=dict)


class StatusChanged(Record):
    kind: Literal["status_changed"] = "status_changed"
    status: RunStatus
    reason: str = ""
    by: Author | None = Field(None, description="Who paused training; None: no pause that somebody asked for.")


class AttemptEnded(Record):
    """The training process failed, and its launcher starts it again: the run goes on."""

    kind: Literal["attempt_ended"] = "attempt_ended"
    attempt: int
    reason: str
    by: str = Field(description="Who starts it again.")
    restarts_left: int


class AttemptStarted(Record):
    """A job was started again, and its run goes on. Its step is the last one of the attempt before."""

    kind: Literal["attempt_started"] = "attempt_started"
    attempt: int = Field(description="From 2.")
    by: str = Field(description="Who has started it again.")
    reason: str = Field("", description="How the attempt before it ended, as far as is known.")


class Logged(Record):
    """A row of the trainer's own log."""

    kind: Literal["logged"] = "logged"
    metrics: dict[str, Metric]
    texts: dict[str, str] = Field(default_factory=dict, description="What it says that is no number.")


class Evaluated(Record):
    kind: Literal["evaluated"] = "evaluated"
    metrics: dict[str, Metric]
    texts: dict[str, str] = Field(default_factory=dict, description="What it says that is no number.")
    command_id: str | None = Field(None, description="The command that asked for it, if one did.")


KeptAs = Literal["", "start", "best", "good"]
"""States that a run keeps by itself: of before its first step, of its best evaluation, and the newest good ones."""


class CheckpointSaved(Record):
    """A checkpoint is complete. Its step and branch are the event's."""

    kind: Literal["checkpoint_saved"] = "checkpoint_saved"
    checkpoint_id: str
    path: str = Field(description="Its folder; empty for a snapshot in memory.")
    tag: str | None = None
    command_id: str | None = None
    keep_in: Literal["disk", "memory"] = "disk"
    size_bytes: int | None = None
    metric: Metric | None = Field(None, description="The goal metric as last evaluated before it.")
    pinned: bool = False
    is_before: bool = Field(False, description="It lay there when the run began: of another run, or another try.")
    kept_as: KeptAs = Field("", description="Kept by the run itself to go back to, and as what; empty: somebody's own.")
    problem: str = Field("", description="Why it cannot be loaded again; empty if it can.")


class CheckpointLabelled(Record):
    """A checkpoint has another tag, or is pinned or no longer pinned: both as they are from now on."""

    kind: Literal["checkpoint_labelled"] = "checkpoint_labelled"
    checkpoint_id: str
    tag: str | None = None
    pinned: bool = False


class BestState(Record):
    """At the end of training: a state that the run kept was better than the end."""

    kind: Literal["best_state"] = "best_state"
    checkpoint_id: str
    at_step: int
    metric: str
    value: Metric
    end_value: Metric | None = Field(None, description="That of the last evaluation.")
    is_loaded: bool = Field(description="Its weights are in the model, to the bit (checkpoints.load_best_at_end).")


class CheckpointMoved(Record):
    """A checkpoint of a branch that the run has left, or has come back to, has another folder now."""

    kind: Literal["checkpoint_moved"] = "checkpoint_moved"
    checkpoint_id: str
    path: str


class CheckpointDeleted(Record):
    """A checkpoint is gone: by the disk cap's keep rule, or with the process that held it in memory."""

    kind: Literal["checkpoint_deleted"] = "checkpoint_deleted"
    checkpoint_id: str
    reason: str


class BranchStarted(Record):
    kind: Literal["branch_started"] = "branch_started"
    name: str
    parent: str | None = None
    from_step: int = 0
    checkpoint_id: str | None = None


TRIAL_PREFIX = "probe:"
"""How the names of the branches begin that a probe's trials are recorded on; no branch of a user's can be named so."""


def is_trial(branch: str) -> bool:
    """Whether what is recorded on a branch belongs to a trial, which the run does not stand on."""
    return branch.startswith(TRIAL_PREFIX)


class TrialStarted(Record):
    """A probe tries something; its steps are recorded on a branch of their own, and taken back."""

    kind: Literal["trial_started"] = "trial_started"
    name: str = Field(description="The branch that its steps are recorded on.")
    parent: str
    from_step: int
    command: Command | None = Field(None, description="What is tried; none: changing nothing.")


class TrialResult(Record):
    """What came of one trial.

    Attributes:
        name: The branch that its steps are recorded on.
        command: What was tried; none: changing nothing.
        start: The training loss of the trial's first step.
        value: What was compared; none for a trial that cannot win.
        gain: By how much better it was than of changing nothing, step by step on the same batches.
        error: Standard error of that; none for single values.
        steps: Training steps that it took.
        took_s: Time that it took, in seconds.
        problem: Why it cannot win.
    """

    name: str
    command: Command | None = None
    start: Metric | None = None
    value: Metric | None = None
    gain: Metric | None = None
    error: Metric | None = None
    steps: int = 0
    took_s: float = 0.0
    problem: str = ""


class Probed(Record):
    """The trials of a probe are over, and the run stands where it stood before them.

    Attributes:
        adopted: Which trial's command was taken, from 0; none: nothing was changed.
        extra_s: Time that all of it took, with going back, in seconds.
    """

    kind: Literal["probed"] = "probed"
    trials: list[TrialResult]
    adopted: int | None = None
    metric: str = ""
    extra_steps: int
    extra_s: float
    reason: str = ""


class ModelRead(Record):
    """The model's layers, as read at the start and after each change of a layer."""

    kind: Literal["model_read"] = "model_read"
    model: ModuleInfo


class WeightsSampled(Record):
    """How the weights move, by a few coordinates of each layer: every some steps, while nobody changes anything."""

    kind: Literal["weights_sampled"] = "weights_sampled"
    look: WeightLook


class DatasetRead(Record):
    """The training dataset and its parameters, as read at the start and after each change."""

    kind: Literal["dataset_read"] = "dataset_read"
    type: str = Field(description="Class name.")
    size: int | None = Field(None, description="Samples, where it has a length.")
    interactive: bool = Field(description="Whether it was made by `make_interactive_dataset` or is a mixture.")
    initialization: dict[str, Any] = Field(default_factory=dict, description="What `update_dataset` can change.")
    runtime: dict[str, Any] = Field(
        default_factory=dict, description="What `update_dataset_runtime_hyperparameters` can change."
    )


class KnobsRead(Record):
    """All knobs as read from the trainer: at the start and after every change."""

    kind: Literal["knobs_read"] = "knobs_read"
    knobs: list[KnobState]
    schedule: LrCourse | None = Field(None, description="The learning rate to come; none: not known.")
    facts: RunFacts | None = Field(None, description="What else there is to know of the training, as it is now.")


class Proposed(Record):
    kind: Literal["proposed"] = "proposed"
    proposal: Proposal


class ApprovalRequested(Record):
    """A proposal waits for a decision."""

    kind: Literal["approval_requested"] = "approval_requested"
    request: ApprovalRequest


class Escalated(Record):
    """An approver did not decide; the next one is asked."""

    kind: Literal["escalated"] = "escalated"
    request: ApprovalRequest = Field(description="As it stands now.")


class StandingChanged(Record):
    """A person allowed every further command of a kind under a rule, or took that back."""

    kind: Literal["standing_changed"] = "standing_changed"
    standing: StandingApproval
    ended_by: str | None = None


class Settled(Record):
    """The probation of a change has ended.

    Attributes:
        outcome: `reverted` names the command that undid it.
    """

    kind: Literal["settled"] = "settled"
    outcome: Literal["kept", "reverted"]
    reason: str
    forecast: Metric | None = Field(None, description="Where the metric was going without the change.")
    found: Metric | None = Field(None, description="Where it went.")
    noise: Metric | None = Field(None, description="Standard error of that comparison.")
    points: int | None = Field(None, description="Values after the change that it rests on; none: it was not judged.")
    metric: str = ""
    reverted_by: str | None = None


class Judged(Record):
    """The gate's verdict."""

    kind: Literal["judged"] = "judged"
    verdict: Verdict


class Acked(Record):
    kind: Literal["acked"] = "acked"
    ack: Ack


class ReadBack(Record):
    """A few steps later: is the change still in force?"""

    kind: Literal["read_back"] = "read_back"
    held: bool
    expected: dict[str, Any]
    found: dict[str, Any]


class Found(Record):
    """A detector saw something."""

    kind: Literal["found"] = "found"
    finding: Finding


class PolicyAttached(Record):
    kind: Literal["policy_attached"] = "policy_attached"
    policy: str
    details: dict[str, Any] = Field(default_factory=dict)
    pid: int | None = Field(None, description="The agent's process.")
    pid_started_s: float | None = Field(None, description="Its start, in seconds after boot.")
    host: str = Field("", description="The machine that it runs on.")


class PolicyDetached(Record):
    kind: Literal["policy_detached"] = "policy_detached"
    policy: str
    reason: str = ""
    successor: str | None = Field(None, description="The policy that takes over at once, if one does.")


class Shadowed(Record):
    """A command that a policy would have asked for, had it been allowed to act."""

    command: Command
    rationale: str = ""


POLICY_FAILED = "the policy failed"
"""With these words a decision's reason tells that the policy's code failed."""


class Decided(Record):
    """A policy looked at the run and proposed something, or nothing."""

    kind: Literal["decided"] = "decided"
    policy: str
    woken_by: str
    command_ids: list[str] = Field(default_factory=list)
    reason: str = ""
    based_on_step: int | None = Field(None, description="Step of the observation that it rests on.")
    shadowed: list[Shadowed] = Field(default_factory=list, description="What a policy in shadow would have asked.")
    faults: list[str] = Field(
        default_factory=list, description="What went wrong in asking a language model, or was done without."
    )
    unusable: bool = Field(False, description="A model was asked, and nothing of what it said could be used.")
    awaited_seq: int | None = Field(
        None,
        ge=0,
        description="In lockstep: the `seq` of the decision_awaited that this answers; 0: of none. Not given: of the "
        "one at `based_on_step`.",
    )


class DecisionAwaited(Record):
    """Training stands at the event's step until the agent has decided, or `limit_s` has passed (`wake.mode`)."""

    kind: Literal["decision_awaited"] = "decision_awaited"
    reason: str
    limit_s: float = Field(description="In seconds.")


class PolicyRequested(Record):
    """An operator wants another policy beside this run, or none; the agent that watches it obeys."""

    kind: Literal["policy_requested"] = "policy_requested"
    policy: str | None = Field(description="Name or path, as for `agenttune attach`; None: detach.")
    author: str = ""

    @property
    def words(self) -> str:
        """What is asked for, and by whom: a look that refuses it gives this as what woke it."""
        by = f" by {self.author}" if self.author else ""
        return f"policy {self.policy} was asked for{by}" if self.policy is not None else f"sent away{by}"


class NoteAdded(Record):
    kind: Literal["note_added"] = "note_added"
    text: str
    author: str


class TagsChanged(Record):
    """A person gave a run other tags: all of those that it has from now on."""

    kind: Literal["tags_changed"] = "tags_changed"
    tags: list[Tag] = Field(max_length=MOST_TAGS)
    author: str = ""


class FindingJudged(Record):
    """A person said whether a finding was right, for later scoring of the detectors; the last word counts."""

    kind: Literal["finding_judged"] = "finding_judged"
    finding_seq: int = Field(ge=1, description="The `seq` of the event of the finding.")
    right: bool
    text: str = Field("", max_length=2000, description="Why, in one's own words.")
    author: str = ""


class Notified(Record):
    """People were told of something, or could not be; the command it was about is the event's.

    Attributes:
        what: `setup`: the control server has no channels to tell anything through.
        channels: How many it was sent through.
        error: Which channels failed, by the names of their services; never an address, which may hold a password.
    """

    kind: Literal["notified"] = "notified"
    what: Literal["approval", "reverted", "noted", "ended", "setup"]
    channels: int = 0
    ok: bool
    attempts: int = 1
    error: str = ""


class LogGap(Record):
    """Rows that were dropped: they could not be written in time (a full disk), or not be read."""

    kind: Literal["log_gap"] = "log_gap"
    dropped_rows: int
    reason: str


Body = Annotated[
    Union[
        RunStarted,
        StatusChanged,
        AttemptEnded,
        AttemptStarted,
        Logged,
        Evaluated,
        CheckpointSaved,
        CheckpointLabelled,
        BestState,
        CheckpointMoved,
        CheckpointDeleted,
        BranchStarted,
        TrialStarted,
        Probed,
        ModelRead,
        WeightsSampled,
        RanksRead,
        DatasetRead,
        KnobsRead,
        Proposed,
        ApprovalRequested,
        Escalated,
        StandingChanged,
        Judged,
        Acked,
        Settled,
        ReadBack,
        Found,
        PolicyAttached,
        PolicyDetached,
        PolicyRequested,
        DecisionAwaited,
        Decided,
        ModelCalled,
        NoteAdded,
        TagsChanged,
        FindingJudged,
        Notified,
        LogGap,
    ],
    Field(discriminator="kind"),
]
EVENT_KINDS: tuple[str, ...] = tuple(t.model_fields["kind"].default for t in get_args(get_args(Body)[0]))
BODY: TypeAdapter[Any] = TypeAdapter(Body)


class Event(Record):
    """One entry of the log.

    Attributes:
        seq: Position in the run's log, from 1, without gaps.
        at_s: Unix time at which it was written.
        step: Completed optimizer steps of the run at that time; None before training begins.
        command_id: The command it belongs to, if it belongs to one.
    """

    seq: int
    at_s: float
    step: int | None = None
    branch: str = "main"
    command_id: str | None = None
    body: Body
