"""What a run will cost, before it starts: counted where there are records, guessed where not.

Everything that is guessed is said. The range goes from a quiet run, in which the model is asked at its own pace and
answers at once, and probes are in vain, to a busy one.
"""

from agenttune.launch.estimate.call_counts import ModelEstimate, paced
from agenttune.launch.estimate.estimate import CapReached, Estimate, estimate
from agenttune.launch.estimate.figures import Range
from agenttune.launch.estimate.probe_steps import ProbeEstimate, probes_ahead
from agenttune.launch.estimate.study_estimate import StudyEstimate

__all__ = [
    "CapReached",
    "Estimate",
    "ModelEstimate",
    "ProbeEstimate",
    "Range",
    "StudyEstimate",
    "estimate",
    "paced",
    "probes_ahead",
]
