"""Everything ever written to a study's journal."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import Field

from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.proposals import Record
from agenttune.protocol.summary import Score

VERSION = 1
"""Of the journal's format; a reader refuses what is newer."""

Arm = Literal["untouched", "reference", "act", "plan_only"]
"""What a run is for: round 0; a policy beside it; a round's plan with its policy; the same plan with none."""
RunOutcome = Literal["finished", "stopped", "failed", "interrupted", "lost"]
Start = dict[str, int | float]
"""Chosen values by the parameters' names; a parameter that is left out has the file's own value."""

_WORDS: dict[Arm, str] = {
    "untouched": "untouched",
    "reference": "reference",
    "act": "acting",
    "plan_only": "the plan alone",
}


class StudyPlace(Record):
    """Where a run stands in its study."""

    study: str = Field(description="The study's id.")
    round: int
    of: int = Field(description="Rounds after round 0.")
    arm: Arm
    policy: str
    start: Start = Field(default_factory=dict)

    @property
    def words(self) -> str:
        """For people, such as `round 2 of 3, acting`."""
        by = f" ({self.policy})" if self.arm == "reference" else ""
        return f"round {self.round} of {self.of}, {_WORDS[self.arm]}{by}"


class StudyStarted(Record):
    """The first entry: what is studied. `settings` are the parts of the config that may not change later."""

    kind: Literal["study_started"] = "study_started"
    study: str
    count: int
    config_path: str
    config_sha256: str
    agenttune: str = Field(description="Version.")
    settings: dict[str, Any]
    goal_metric: str
    goal_direction: Literal["minimize", "maximize"]


class StudyResumed(Record):
    kind: Literal["study_resumed"] = "study_resumed"
    count: int
    config_sha256: str


class StudyEnded(Record):
    """The study ended for now. One that was stopped or interrupted can be continued."""

    kind: Literal["study_ended"] = "study_ended"
    status: Literal["finished", "stopped", "interrupted"]
    reason: str = ""


class RunLaunched(Record):
    """A run has its log; its process comes next."""

    kind: Literal["run_launched"] = "run_launched"
    run_id: str
    place: StudyPlace
    args: list[str] = Field(description="Arguments of the script.")


class RunConcluded(Record):
    """What came of a run, as its log tells."""

    kind: Literal["run_concluded"] = "run_concluded"
    run_id: str
    outcome: RunOutcome
    reason: str = ""
    steps: int = 0
    duration_s: float = 0.0
    score: Score | None = Field(None, description="None if no loss was logged.")
    commands: int = Field(0, description="Commands that were applied.")
    findings: int = 0
    calls: int = Field(0, description="Calls of language models by the run's own policy.")
    tokens: int = 0
    usd: float | None = Field(None, description="Of those calls; None: a price is not known.")


class PlannedRound(Record):
    """The start of a round, and where it comes from."""

    kind: Literal["planned"] = "planned"
    start: Start
    chosen_by: Literal["model", "best_so_far", "file"]
    reasoning: str = Field("", description="The model's, or why it was not the model's choice.")
    refused: list[str] = Field(default_factory=list, description="Why earlier answers were refused, in order.")


class Reflected(Record):
    kind: Literal["reflected"] = "reflected"
    text: str


class StudyNote(Record):
    kind: Literal["study_note"] = "study_note"
    text: str


Body = Annotated[
    Union[
        StudyStarted,
        StudyResumed,
        StudyEnded,
        RunLaunched,
        RunConcluded,
        PlannedRound,
        Reflected,
        StudyNote,
        ModelCalled,
    ],
    Field(discriminator="kind"),
]


class StudyEntry(Record):
    """One line of the journal.

    Attributes:
        at_s: Unix time at which it was written.
        round: The round it belongs to, if it belongs to one.
    """

    version: int = VERSION
    at_s: float
    round: int | None = None
    body: Body
