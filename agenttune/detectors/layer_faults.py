"""Which layer it is: one whose weights jump, die or stop moving while the others go on as before, or that drops all.

Each layer is held against its own past and against what the others did since: a change of the rate moves them all. In
single-layer faults of three tasks a struck layer's updates were 10 to 400 times its usual ones, those of every other
layer, and of all layers of healthy runs, at most 5 times (measured).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from statistics import median

from agenttune.detectors.base import Detector
from agenttune.protocol.commands import FREEZE, CommandBase, ModelLayerOperation
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import Ack
from agenttune.protocol.text import some
from agenttune.protocol.weight_looks import WeightLook

FRESH_LOOKS = 4
"""Newest looks in which something new is told of (guess: with five steps between them, twenty steps)."""
PAST_LOOKS = 2
"""Looks before, at least, that tell what is usual (guess)."""
JUMP_FACTOR = 8.0
"""Updates of a layer over its usual ones, and over the same of the other layers in the middle (tuned)."""
JUMP_LEAST = 0.1
"""And as a part of its weights: smaller updates do not tear a network apart (guess)."""
RENEWED_FACTOR, RENEWED_WAY = 3.0, 0.75
"""The same factor where the weights are others than at the look before: their way since then is that part of their
size. Of layers begun anew 3.9 to 5.2 and 0.91 to 1.04 in a small GPT, whose usual updates are large; of healthy runs at
most 1.6 and 1.1 in the same look, and 2.2 and 0.8 (measured on 50)."""
DEAD_FACTOR = 0.2
"""What is left of a layer's weights after they were lost (guess)."""
GROWN_FACTOR = 3.0
"""Weights that have become so many times larger at once have not been trained so (guess)."""
OTHERS_SIZE = 0.3
"""While those of the other layers, in the middle, have changed by no more, as a logarithm (guess)."""
STOPPED_FACTOR = 0.01
"""Updates below this part of the usual ones are none: what is left is momentum and decay (guess)."""
GOES_ON_FACTOR = 0.3
"""While those of the other layers, in the middle, are at least this part of the usual ones (guess)."""
STOPPED_LOOKS = 2
"""Looks in a row."""
MOVING_FRAC = 0.25
"""Part of the layers, at least, that must move for those that never did to be worth a word: else little is trained on
purpose (guess)."""
MOST_NAMED = 4
"""Layers that a finding names."""


class LayerFault(Detector):
    """One layer's weights jump, die or stop moving while the others go on, or it drops nearly all: it is named."""

    name = "layer_fault"

    def detect(self, observation: Observation) -> Iterator[Finding]:
        looks = [look for look in observation.weights if look.steps]
        if len(looks) >= STOPPED_LOOKS:
            yield from self._struck(observation, looks)
            yield from self._standing(observation, looks)
        yield from self._dropping(observation)

    def _dropping(self, observation: Observation) -> Iterator[Finding]:
        """Layers through which next to nothing comes."""
        dropping = observation.facts.dropping if observation.facts is not None else {}
        if not dropping:
            return
        layer, part = next(iter(dropping.items()))
        others = f", and so do {some(list(dropping)[1:], MOST_NAMED)}" if len(dropping) > 1 else ""
        yield self.finding(
            f"layer {layer} drops {part:.1%} of what it is given{others}: next to nothing comes through",
            metric="dropout",
            step=observation.step,
            evidence={"cause": "dropout", "layer": layer, "part": part},
        )

    def _struck(self, observation: Observation, looks: Sequence[WeightLook]) -> Iterator[Finding]:
        """The layer that has changed most of all at once, at the first of the newest looks that shows it."""
        for i in range(max(PAST_LOOKS, len(looks) - FRESH_LOOKS), len(looks)):
            look, past = looks[i], looks[:i]
            struck = _lost_or_grown(look, past) or _jumped(look, past)
            if struck is None:
                continue
            layer, cause = struck
            since, usual = look.step - look.steps + 1, _usual(past, layer)
            if _is_asked_for(observation, [layer], since - 1, look.step):
                continue
            weights, words = _usual_rms(past, layer), "lost nearly all its weights" if cause == "dead" else "jumped"
            yield self.finding(
                f"layer {layer} {words} between steps {since} and {look.step}: updates of {look.ratios[layer]:.2g} of "
                f"its weights a step where {usual:.2g} was usual, root mean square of its weights {weights:.3g} -> "
                f"{look.rms[layer]:.3g}, while the other layers went on",
                metric="update_ratio",
                step=look.step,
                evidence={
                    "cause": cause,
                    "layer": layer,
                    "at_step": since,
                    "ratio": look.ratios[layer],
                    "usual": usual,
                },
            )
            return

    def _standing(self, observation: Observation, looks: Sequence[WeightLook]) -> Iterator[Finding]:
        """Layers that do not move while others do: never, or no longer."""
        newest = looks[-STOPPED_LOOKS:]
        if any(look.since_step != newest[-1].since_step for look in newest):
            return
        names, past = list(newest[-1].ratios), looks[:-STOPPED_LOOKS]
        usual = {name: _usual(past, name) for name in names}
        goes_on = [newest[-1].ratios[n] / usual[n] for n in names if usual[n] > 0]
        others_go_on = bool(goes_on) and median(goes_on) >= GOES_ON_FACTOR
        stopped = [
            n for n in names if usual[n] > 0 and all(_below(look, n, STOPPED_FACTOR * usual[n]) for look in newest)
        ]
        if stopped and others_go_on:
            is_asked = _is_frozen_by_command(observation, stopped)
            words = "no longer moves, as a command has asked for" if is_asked else "no longer moves while others do"
            yield self._of(stopped, newest[-1], "stopped", words, "info" if is_asked else "warning")
            return
        still = [n for n in names if all(_below(look, n, 0.0) for look in newest)]
        if still and len(names) - len(still) >= MOVING_FRAC * len(names):
            if _is_frozen_by_command(observation, still):
                cause, words = "stopped", "does not move, as a command has asked for"
            else:
                cause, words = "frozen", "does not move while others do, though the optimizer holds it"
            yield self._of(still, newest[-1], cause, words, "info")

    def _of(self, layers: list[str], look: WeightLook, cause: str, words: str, severity: str) -> Finding:
        layer = layers[0] if len(layers) == 1 else _block(layers, list(look.ratios))
        return self.finding(
            f"layer {layer} {words} ({some(layers, MOST_NAMED)})",
            metric="update_ratio",
            step=look.step,
            severity="warning" if severity == "warning" else "info",
            evidence={"cause": cause, "layer": layer, "layers": len(layers), "at_step": look.since_step},
        )


def _lost_or_grown(look: WeightLook, past: Sequence[WeightLook]) -> tuple[str, str] | None:
    """The layer whose weights are not of the size that they were, while those of the others are."""
    sizes = {name: look.rms[name] / was for name in look.rms if (was := _usual_rms(past, name)) > 0}
    known = {name: abs(math.log(size)) if size > 0 else math.inf for name, size in sizes.items() if math.isfinite(size)}
    layer = max(known, key=lambda name: known[name], default="")
    others = [size for name, size in known.items() if name != layer]
    if not others or median(others) > OTHERS_SIZE or known[layer] <= math.log(GROWN_FACTOR):
        return None
    if sizes[layer] < DEAD_FACTOR:
        return layer, "dead"
    is_torn = look.ratios[layer] > JUMP_LEAST and _grew_at_once(look, past, layer)
    return (layer, "jump") if sizes[layer] > GROWN_FACTOR and is_torn else None


def _grew_at_once(look: WeightLook, past: Sequence[WeightLook], layer: str) -> bool:
    """Whether a layer has grown by far more a step than is usual: what begins at zero, as an adapter's second half, is
    many times larger after some looks, by steps of one size or those of a warm-up."""
    known = [(seen.step, size) for seen in (*past, look) if math.isfinite(size := seen.rms.get(layer, math.nan))]
    *usual, newest = [abs(b - a) / max(1, after - before) for (before, a), (after, b) in pairwise(known)]
    return newest > JUMP_FACTOR * (median(usual) if usual else 0.0)


def _jumped(look: WeightLook, past: Sequence[WeightLook]) -> tuple[str, str] | None:
    """The layer whose updates are far above its usual ones, or whose weights are others, and the rest's are not."""
    ratios = {name: ratio for name, ratio in look.ratios.items() if math.isfinite(ratio)}
    factors = {name: ratio / usual for name, ratio in ratios.items() if (usual := _most_usual(past, name)) > 0}
    layer = max(factors, key=lambda name: factors[name], default="")
    others = [factor for name, factor in factors.items() if name != layer]
    if not others:
        return None
    beyond = factors[layer] / max(1.0, median(others))
    is_renewed = beyond > RENEWED_FACTOR and ratios[layer] * math.sqrt(look.steps) > RENEWED_WAY
    return (layer, "jump") if is_renewed or (beyond > JUMP_FACTOR and ratios[layer] > JUMP_LEAST) else None


def _usual_rms(looks: Sequence[WeightLook], layer: str) -> float:
    """Of a layer's weights lately; 0 where that is not known."""
    known = [look.rms[layer] for look in looks[-FRESH_LOOKS:] if math.isfinite(look.rms.get(layer, math.nan))]
    return median(known) if known else 0.0


def _is_asked_for(observation: Observation, layers: Sequence[str], since: int, until: int) -> bool:
    """Whether a command has changed something about each of these layers, or about the block that it is in.

    Args:
        since, until: Completed steps at which it was applied.
    """
    acked = [(record.command, record.ack) for record in observation.commands if record.ack is not None]
    done = [command for command, ack in acked if _has_changed(ack) and since <= ack.step <= until]
    return all(any(_is_about(command, layer) for command in done) for layer in layers)


def _is_frozen_by_command(observation: Observation, layers: Sequence[str]) -> bool:
    """Whether the newest command about what is trained of each of these layers has frozen it."""
    return all(_newest_freeze(observation, layer) is False for layer in layers)


def _newest_freeze(observation: Observation, layer: str) -> bool | None:
    """What the newest command of its kind wants of a layer: to be trained, or not; None if there was none."""
    wanted = None
    for record in observation.commands:
        command, ack = record.command, record.ack
        if ack is None or not _has_changed(ack) or not _is_about(command, layer):
            continue
        if isinstance(command, ModelLayerOperation) and command.operation_name == FREEZE:
            wanted = bool(command.params.get("requires_grad", True))
    return wanted


def _has_changed(ack: Ack) -> bool:
    return ack.outcome == "applied" and bool(ack.changes)


def _is_about(command: CommandBase, layer: str) -> bool:
    """Whether a command names a layer, or a block that it is in; the model itself has an empty name."""
    name = getattr(command, "layer_name", None)
    return isinstance(name, str) and (not name or layer == name or layer.startswith(f"{name}."))


def _usual(looks: Sequence[WeightLook], layer: str) -> float:
    """What a layer's updates usually were; 0 where that is not known."""
    known = [look.ratios[layer] for look in looks if math.isfinite(look.ratios.get(layer, math.nan))]
    return median(known) if len(known) >= PAST_LOOKS else 0.0


def _most_usual(looks: Sequence[WeightLook], layer: str) -> float:
    """The same, or the highest lately: updates of weights that shrink to nothing grow beside them, and jump nowhere."""
    lately = [look.ratios[layer] for look in looks[-FRESH_LOOKS:] if math.isfinite(look.ratios.get(layer, math.nan))]
    usual = _usual(looks, layer)
    return max(usual, *lately) if usual > 0 and lately else usual


def _below(look: WeightLook, layer: str, most: float) -> bool:
    return look.ratios.get(layer, math.nan) <= most


def _block(layers: list[str], names: list[str]) -> str:
    """The block that has just these layers, if there is one; else the first of them."""
    shared = list(takewhile(lambda same: len(set(same)) == 1, zip(*(name.split(".") for name in layers), strict=False)))
    block = ".".join(part for part, *_ in shared)
    inside = [name for name in names if name == block or name.startswith(f"{block}.")]
    return block if block and len(inside) == len(layers) else layers[0]
