"""Recorded runs: what a policy would have done in one, and a run as a schedule for others.

`recordings/` reads what trainings left behind. Knows the agent loop and the store; touches no live run.
"""

from agenttune.replay.outcome import ReplayOutcome
from agenttune.replay.replay import WINDOW_STEPS, Replayed, replay
from agenttune.replay.replay_control import ReplayControl, admit

__all__ = ["WINDOW_STEPS", "ReplayControl", "ReplayOutcome", "Replayed", "admit", "replay"]
