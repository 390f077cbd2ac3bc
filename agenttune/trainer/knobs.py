"""Knobs: values that users register, and the reading of every live-tunable value of a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

from agenttune.errors import UserError
from agenttune.protocol.commands import Redefines
from agenttune.protocol.metrics import is_number
from agenttune.protocol.proposals import Change
from agenttune.protocol.run_info import KnobState
from agenttune.trainer.adapter import Adapter
from agenttune.trainer.checkpoints.training_state import Stateful
from agenttune.trainer.layers.permissions import LayerRules
from agenttune.trainer.lr.optimizers import read_value, same, tunable_names
from agenttune.trainer.lr.schedule_kinds import ScheduleKind
from agenttune.trainer.lr.schedules import Schedule

logger = logging.getLogger("agenttune")

KnobValue = bool | int | float | str
Bounds = tuple[float | None, float | None]
"""Smallest and largest value allowed; None: no bound on that side."""
NAME_CHARACTERS = 128
"""Longest name that `set_knob` takes."""


@dataclass(frozen=True)
class Knob:
    """A value that the user lets others set while training runs."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""
    redefines: Redefines = "every_loss"

    def state(self) -> KnobState:
        return KnobState(
            name=self.name,
            unit=self.unit,
            description=self.description,
            effective=self.read(),
            minimum=self.minimum,
            maximum=self.maximum,
            redefines=self.redefines,
        )


def make_knob(
    name: str,
    get: Callable[[], Any],
    set: Callable[[Any], object],  # noqa: A002 - reads best where it is called
    unit: str = "",
    bounds: Bounds | None = None,
    description: str = "",
    redefines: Redefines = "every_loss",
) -> Knob:
    """A knob, as users register one.

    Args:
        name: Its name, for agents and the dashboard.
        get: Reads it: a number, true/false or a text.
        set: Writes it; called between two steps, in the training thread.
        unit: Such as `s` or `tokens`.
        bounds: Smallest and largest value allowed; None for no bound on that side, or at all.
        description: What it does, for those who decide to change it.
        redefines: Which losses mean something else once it was changed, so that nobody compares them with those of
            before: `every_loss` (evaluated ones too), `training` or `nothing`.

    Raises:
        UserError: The name is empty or too long, or the bounds are none.
    """
    if not name or len(name) > NAME_CHARACTERS:
        raise UserError(f"a knob's name has 1 to {NAME_CHARACTERS} characters, not {len(name)}", field="name")
    if not callable(get) or not callable(set):
        raise UserError(f"knob {name!r} needs two functions, one that gets its value and one that sets it", field="get")
    if redefines not in get_args(Redefines):
        allowed = list(get_args(Redefines))
        raise UserError(
            f"redefines of knob {name!r} is one of {', '.join(allowed)}, not {redefines!r}",
            field="redefines",
            allowed=allowed,
        )
    low, high = _checked_bounds(name, bounds)
    return Knob(name, get, set, unit, low, high, description, redefines)


def _checked_bounds(name: str, bounds: Bounds | None) -> Bounds:
    if bounds is None:
        return None, None
    numbers = isinstance(bounds, (tuple, list)) and len(bounds) == 2 and all(map(_is_bound, bounds))
    if not numbers:
        raise UserError(f"bounds of knob {name!r} are a pair such as (0, 1), not {bounds!r}", field="bounds")
    low, high = (None if b is None or math.isinf(b) else b for b in bounds)
    if low is not None and high is not None and low > high:
        raise UserError(f"bounds of knob {name!r} are (smallest, largest), not {bounds!r}", field="bounds")
    return low, high


def _is_bound(value: object) -> bool:
    return value is None or (is_number(value) and not math.isnan(value))


class KnobRegistry:
    """What the user offers for live change: knobs by name, and what is allowed on layers.

    Attributes:
        layers: Operations and attributes of layers that the user allows.
        held: States of the user's that checkpoints hold, by name.
    """

    def __init__(self) -> None:
        self._knobs: dict[str, Knob] = {}
        self.layers = LayerRules()
        self.held: dict[str, Stateful] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._knobs

    def register(self, knob: Knob) -> None:
        """Add a knob, replacing one of the same name.

        Raises:
            UserError: It cannot be read, or holds neither a number, a truth value nor a text.
        """
        value = knob.read()
        if not isinstance(value, (bool, int, float, str)):
            raise UserError(
                f"knob {knob.name!r} reads as {type(value).__name__}; a knob is a number, true/false or text",
                field="get",
            )
        self._knobs[knob.name] = knob

    def hold(self, name: str, held: Stateful) -> None:
        """Have every checkpoint hold a state of the user's.

        Raises:
            UserError: It has no state that can be read and restored, or another one has the name.
        """
        lacking = [part for part in ("state_dict", "load_state_dict") if not callable(getattr(held, part, None))]
        if lacking:
            raise UserError(
                f"state {name!r} is a {type(held).__name__} without {' and '.join(lacking)}()", field="held"
            )
        if self.held.get(name, held) is not held:
            raise UserError(f"another state is registered as {name!r}; choose another name", field="name")
        self.held[name] = held

    def redefines(self, name: str) -> Redefines:
        """Which losses mean something else once a knob was changed; none for one that there is not."""
        return self._knobs[name].redefines if name in self._knobs else "nothing"

    def states(self) -> list[KnobState]:
        """All knobs as they read; one whose `get` raises is shown without a value, and the reason is logged."""
        return [_state_or_blank(knob) for knob in self._knobs.values()]

    def check(self, name: str, value: KnobValue) -> None:
        """Check a value without writing it.

        Raises:
            UserError: Unknown name, wrong type or out of bounds.
        """
        knob = self._find(name)
        _fitted(knob, knob.read(), value)

    def put_back(self, name: str, value: KnobValue) -> None:
        """Write a value that the knob has had."""
        self._find(name).write(value)

    def set(self, name: str, value: KnobValue) -> tuple[Change, Callable[[], Any]]:
        """Check, write and read back one knob; on any trouble its old value is written again.

        Raises:
            UserError: Unknown name, wrong type, out of bounds, or the value did not hold.
        """
        knob = self._find(name)
        previous = knob.read()
        fitted = _fitted(knob, previous, value)
        try:
            knob.write(fitted)
            found = knob.read()
            if not same(found, fitted):
                raise UserError(f"knob {name!r} was set to {fitted!r} but reads {found!r}; put back to {previous!r}")
        except BaseException:
            knob.write(previous)
            raise
        change = Change(
            name=name,
            unit=knob.unit,
            previous=previous,
            requested=value,
            effective=found,
            redefines=knob.redefines,
        )
        return change, knob.read

    def _find(self, name: str) -> Knob:
        if name not in self._knobs:
            known = sorted(self._knobs)
            raise UserError(
                f"no knob {name!r}; registered: {', '.join(known) or 'none (see register_knob)'}",
                field="name",
                allowed=known,
            )
        return self._knobs[name]


def _state_or_blank(knob: Knob) -> KnobState:
    try:
        return knob.state()
    except Exception as error:  # the user's code; not worth the user's training
        logger.exception("knob %r cannot be read", knob.name)
        return KnobState(name=knob.name, unit=knob.unit, description=f"cannot be read: {error}")


def _fitted(knob: Knob, previous: Any, value: KnobValue) -> KnobValue:
    """`value` in the type of the knob and within its bounds, or a UserError."""
    wanted = type(previous)
    if wanted is int and type(value) is float and isinstance(knob.minimum, float) and isinstance(knob.maximum, float):
        wanted = float  # bounds such as (0.0, 1.0) say that a 0 that stands there now is no count
    if wanted is float and type(value) is int:
        value = float(value)
    if type(value) is not wanted:
        raise UserError(f"knob {knob.name!r} is a {wanted.__name__} (now {previous!r}), not {value!r}", field="value")
    if is_number(value):
        low, high = knob.minimum, knob.maximum
        inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        if not inside:
            raise UserError(
                f"knob {knob.name!r} takes {low if low is not None else '-inf'} to "
                f"{high if high is not None else 'inf'}, not {value!r}",
                field="value",
                allowed={"minimum": low, "maximum": high},
            )
    return value


def read_knobs(
    adapter: Adapter, registry: KnobRegistry, ratios: list[float] | None = None, exempt: Iterable[int] = ()
) -> list[KnobState]:
    """Every live-tunable value, read from where it is used.

    Args:
        adapter: The training loop.
        registry: What the user offers.
        ratios: Last known ratio of each group's base rate to the first one's.
        exempt: Groups meant to have no weight decay.
    """
    optimizer = adapter.optimizer()
    schedule = Schedule(optimizer, adapter.scheduler(), ratios)
    rates, bases = schedule.effective(), schedule.base()
    knobs = []
    if schedule.kind is not ScheduleKind.OWN:
        knobs.append(
            KnobState(
                name="lr",
                description=f"learning rate of the first parameter group; schedule: {schedule.name}",
                base=bases[0],
                effective=rates[0],
                groups=rates,
                base_groups=bases,
                ratios=schedule.current_ratios(),
                minimum=0.0,
                maximum=100.0,
                command="update_optimizer",
            )
        )
    for name in tunable_names(optimizer):
        values = read_value(optimizer, name)
        kept = sorted(exempt) if name == "weight_decay" else []
        knobs.append(
            KnobState(name=name, effective=values[0], groups=values, exempt_groups=kept, command="update_optimizer")
        )
    return [*knobs, *adapter.settings(), *registry.states()]
