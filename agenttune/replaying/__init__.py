"""What a policy would have done in a run that was recorded."""

from agenttune.replaying.control import ReplayControl
from agenttune.replaying.outcome import Replay
from agenttune.replaying.permission import admit
from agenttune.replaying.replay import WINDOW_STEPS, Replayed, replay

__all__ = ["WINDOW_STEPS", "Replay", "ReplayControl", "Replayed", "admit", "replay"]
