"""What a user offers for live change, whatever the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agenttune.protocol.commands import Redefines
from agenttune.trainer.checkpoints.training_state import Stateful
from agenttune.trainer.knobs import Bounds, KnobRegistry, make_knob
from agenttune.trainer.layers.permissions import Operation
from agenttune.trainer.session import Session


class Offers:
    """Mixed into what users hold: the session, the patched loop, the callback.

    Attributes:
        registry: What is offered.
    """

    def __init__(self) -> None:
        self.registry = KnobRegistry()

    def _live_session(self) -> Session | None:
        """The session, while the run goes on."""
        raise NotImplementedError

    def register_knob(
        self,
        name: str,
        get: Callable[[], Any],
        set: Callable[[Any], object],  # noqa: A002 - reads best where it is called
        unit: str = "",
        bounds: Bounds | None = None,
        description: str = "",
        redefines: Redefines = "every_loss",
    ) -> None:
        """Offer a value of your own for the `set_knob` command.

        Args:
            name: Its name, for agents and the dashboard.
            get: Reads it: a number, true/false or a text.
            set: Writes it; called between two steps, in the training thread.
            unit: Such as `s` or `tokens`.
            bounds: Smallest and largest value allowed; None for no bound on that side, or at all.
            description: What it does, for those who decide to change it.
            redefines: Which losses mean something else once it was changed, so that nobody compares them with those
                of before: `every_loss` (evaluated ones too), `training` or `nothing`.

        Raises:
            UserError: It cannot be read, or is of another type.
        """
        session = self._live_session()
        register = session.register_knob if session is not None else self.registry.register
        register(make_knob(name, get, set, unit, bounds, description, redefines))

    def register_state(self, name: str, held: Stateful) -> None:
        """Have checkpoints hold something of your own, and restore it: averaged weights, a buffer, a counter.

        Args:
            name: Its name.
            held: Has `state_dict()`, of tensors, numbers, texts, lists and dictionaries, and `load_state_dict(state)`.

        Raises:
            UserError: It has no such methods, or another one has the name.
        """
        self.registry.hold(name, held)

    def allow_layer_operation(self, name: str, function: Operation | None = None) -> None:
        """Allow one more operation on layers for `model_layer_operation`.

        Args:
            name: Its name; without a function, that of a method of the layers that have it.
            function: Called with the layer, and with the command's `params` by name.

        Raises:
            UserError: It cannot be an operation.
        """
        self.registry.layers.allow_operation(name, function)

    def allow_layer_parameter(self, name: str) -> None:
        """Allow one more attribute of layers for `model_layer_parameter_update`: one that their code reads anew.

        Raises:
            UserError: It cannot be one.
        """
        self.registry.layers.allow_parameter(name)
