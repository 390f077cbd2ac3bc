"""What `approve_if` and `reject_if` of an approval rule can speak of."""

from __future__ import annotations

DOCUMENTED = {
    "step": "completed optimizer steps",
    "max_steps": "steps planned",
    "steps_left": "steps planned and not yet made",
    "progress": "part of the planned steps that is done, 0 to 1",
    "metric": "the goal metric as last known",
    "factor": "largest factor by which the command changes a knob in any group, of a rate at any step to come, up or "
    "down; infinite where that cannot be told",
    "commands": "commands that agents had let through so far",
    "steps_since_command": "steps since the newest of them; infinite if there is none",
}
"""Names, with their meaning. What is not known is NaN, and no comparison with it is true."""

DOCUMENTED_FUNCTIONS = {
    "now": "now('lr'): value of a knob as it stands, in the group that the command would make the largest",
    "to": "to('lr'): largest value that the command would give it in any group, of a rate at any step; NaN if it "
    "leaves the knob alone",
    "is_finite": "neither NaN nor infinite",
    "abs": "absolute value",
    "min": "smallest of its arguments",
    "max": "largest of its arguments",
}
"""Functions, with their meaning."""
