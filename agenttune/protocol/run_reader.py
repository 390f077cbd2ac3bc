"""Reading one run: all that a policy's or a client's tools can see of it, wherever the run is."""

from __future__ import annotations

from typing import Protocol

from agenttune.protocol.events import (
    BranchStarted,
    Curve,
    DatasetRead,
    Event,
    KnobState,
    ModuleInfo,
    SeriesInfo,
)
from agenttune.protocol.model_calls import ModelCalled
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Proposal, Verdict
from agenttune.protocol.summary import Intervention


class RunReader(Protocol):
    """One run, read only.

    Raises:
        ServerUnreachable: Every method, when there is a server in between and it does not answer.
    """

    def observation(self) -> Observation: ...

    def series(self) -> list[SeriesInfo]:
        """The metrics there are in the current branch."""
        ...

    def curve(self, metric: str, first_step: int = 0, last_step: int | None = None, max_points: int = 100) -> Curve:
        """A metric of the current branch; raises UserError if there is none of that name."""
        ...

    def knobs(self) -> list[KnobState]: ...

    def model(self, layer: str = "", norms: bool = False) -> ModuleInfo | None:
        """The layers as last read, or with `norms` as measured now; None if they were never read."""
        ...

    def dataset(self) -> DatasetRead | None: ...

    def checkpoints(self) -> list[Event]:
        """Those that still exist, oldest first; for an agent, none of before the run."""
        ...

    def branches(self) -> list[BranchStarted]: ...

    def history(self, limit: int = 50) -> list[Intervention]:
        """The newest commands with their measured effect, oldest first."""
        ...

    def model_calls(self) -> list[ModelCalled]:
        """Calls of language models so far, for their cost; without the messages."""
        ...

    def dry_run(self, proposal: Proposal) -> Verdict:
        """What the gate would say now."""
        ...
