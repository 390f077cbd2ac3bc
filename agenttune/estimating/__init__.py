"""What a run will cost, before it starts: counted where there are records, guessed where not.

Everything that is guessed is said. The range goes from a quiet run, in which the model is asked at its own pace and
answers at once, and probes are in vain, to a busy one.
"""

from agenttune.estimating.calls import ModelEstimate, paced
from agenttune.estimating.probes import ProbeEstimate, probes_ahead
from agenttune.estimating.ranges import Range
from agenttune.estimating.study import StudyEstimate
from agenttune.estimating.whole import CapReached, Estimate, estimate

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
