"""When one layer is at fault it is named, whatever the others do; where all move alike, none is."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from agenttune.detectors import detect
from agenttune.policy.rule_names import names_of
from agenttune.protocol.commands import parse_command
from agenttune.protocol.findings import Finding
from agenttune.protocol.observation import Observation
from agenttune.protocol.proposals import CommandRecord
from agenttune.protocol.run_facts import RunFacts
from agenttune.protocol.weight_looks import WeightLook
from tests.policy.conftest import applied, decay, observe

LAYERS = ("emb", "blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp", "head")
Figures = Callable[[int, str], tuple[float, float]]
"""Update ratio and root mean square of a layer at a look."""


def found(figures: Figures) -> list[list[Finding]]:
    """What is found after each of the later looks; they are five steps apart."""
    return [[f for f in detect(known) if f.kind == "layer_fault"] for known in seen(figures)[4:]]


def seen(figures: Figures, count: int = 12) -> list[Observation]:
    """The run after each look."""
    draw, looks, told = random.Random(0), list[WeightLook](), list[Observation]()
    for n in range(count):
        at = {name: figures(n, name) for name in LAYERS}
        noise = {name: math.exp(draw.gauss(0, 0.2)) for name in LAYERS}
        looks.append(
            WeightLook(
                step=5 * n + 6,
                since_step=1,
                steps=5,
                straightness=0.5,
                update_ratio=0.02,
                ratios={name: at[name][0] * noise[name] for name in LAYERS},
                rms={name: at[name][1] for name in LAYERS},
            )
        )
        told.append(observe(decay(looks[-1].step, 4.0, 1.0, 0.02)).model_copy(update={"weights": list(looks)}))
    return told


def usual(n: int, name: str) -> tuple[float, float]:
    return 0.1 / (n + 1), 0.05 + 0.001 * n


def struck(ratio: float, rms: float, layer: str = "blocks.1.mlp", at: int = 8) -> Figures:
    return lambda n, name: (ratio, rms) if name == layer and n >= at else usual(n, name)


def operated(*operations: tuple[str, str, bool | None]) -> list[CommandRecord]:
    """Commands about layers that were applied, by layer, operation and whether it is to be trained."""
    records = []
    for step, (layer, operation, is_trained) in enumerate(operations, 1):
        params = {} if is_trained is None else {"requires_grad": is_trained}
        given = {"kind": "model_layer_operation", "layer_name": layer, "operation_name": operation, "params": params}
        record = applied(step, 1e-3)
        proposal = record.proposal.model_copy(update={"command": parse_command(given)})
        records.append(record.model_copy(update={"proposal": proposal}))
    return records


FROZEN, TRAINED = ("requires_grad_", False), ("requires_grad_", True)


def test_no_layer_is_named_where_all_is_well_or_all_change_alike() -> None:
    assert not any(found(usual))
    assert not any(found(lambda n, name: (0.01 if n < 7 else 0.9, 0.05 if n < 7 else 0.5))), "the rate was raised"
    assert not any(found(lambda n, name: (0.05 if n < 7 else 1e-5, 0.05))), "the rate was cut"
    assert not any(found(lambda n, name: (0.0, 0.05)))


@pytest.mark.parametrize(
    ("ratio", "rms", "cause"),
    [(7.4, 1.5, "jump"), (0.9, 0.05, "jump"), (0.35, 0.003, "dead"), (20.0, 2.5, "jump")],
    ids=["updates too large", "initialized again", "weights of zero", "weights scaled"],
)
def test_the_layer_that_is_struck_is_named_at_the_next_look(ratio: float, rms: float, cause: str) -> None:
    told = found(struck(ratio, rms))
    assert not any(told[:4])
    (finding,) = told[4]
    assert (finding.severity, finding.evidence["layer"], finding.evidence["cause"]) == (
        "warning",
        "blocks.1.mlp",
        cause,
    )
    assert finding.evidence["at_step"] == 42
    assert "layer blocks.1.mlp" in finding.summary


@pytest.mark.parametrize(("ratio", "is_told"), [(0.1, False), (0.28, False), (0.45, True)])
def test_a_layer_begun_anew_is_named_where_updates_are_large_anyway(ratio: float, is_told: bool) -> None:
    """Seen in a small GPT, whose usual updates are a tenth: new weights are but four times that, and quite others."""
    told = found(lambda n, name: (ratio if name == "blocks.1.mlp" and n == 8 else 0.1, 0.05))
    assert [bool(findings) for findings in told[:5]] == [False] * 4 + [is_told]


def test_updates_that_grow_beside_weights_that_shrink_are_no_fault() -> None:
    """Seen in a simulated training near its optimum, where weights are but noise: a healthy run was gone back in."""
    grows = (0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.02, 0.06, 0.15, 0.3, 0.6, 0.6)
    assert not any(found(lambda n, name: (grows[n] if name == "head" else 0.05, 0.05)))


@pytest.mark.parametrize("grows", [lambda n: 1e-3 * (n + 1), lambda n: 1e-4 * (n + 1) ** 2], ids=["evenly", "warm-up"])
def test_a_layer_that_grows_from_nothing_does_not_jump(grows: Callable[[int], float]) -> None:
    """Seen: an adapter's second half, which begins at zero, was gone back for, then frozen (0.74 instead of 0.57)."""

    def begins_at_zero(n: int, name: str) -> tuple[float, float]:
        return (grows(n + 1) / grows(n) - 1, grows(n)) if name == "head" else (0.01, 0.05)

    assert not any(found(begins_at_zero))
    told = found(lambda n, name: (9.0, 0.5) if name == "head" and n >= 8 else begins_at_zero(n, name))
    assert [bool(findings) for findings in told[:5]] == [False] * 4 + [True]


def test_a_layer_that_stops_is_named_and_so_is_a_block_that_never_moved() -> None:
    (stopped,) = found(struck(1e-6, 0.05))[-1]
    assert (stopped.severity, stopped.evidence["cause"], stopped.evidence["layer"]) == (
        "warning",
        "stopped",
        "blocks.1.mlp",
    )
    frozen = found(lambda n, name: (0.0, 0.05) if name.startswith("blocks.0") else usual(n, name))
    (told,) = frozen[-1]
    assert (told.severity, told.evidence["cause"], told.evidence["layer"]) == ("info", "frozen", "blocks.0")
    assert "blocks.0.attn, blocks.0.mlp" in told.summary


def test_a_layer_that_a_command_has_frozen_is_no_alarm() -> None:
    known = seen(struck(0.0, 0.05))[-1]
    for name, severity in (("blocks.1", "info"), ("blocks.0", "warning")):
        told = detect(known.model_copy(update={"commands": operated((name, *FROZEN))}))
        assert [f.severity for f in told if f.kind == "layer_fault"] == [severity]


@pytest.mark.parametrize(
    ("commands", "cause"),
    [
        (operated(("blocks.0", *FROZEN)), "stopped"),
        (operated(("", *FROZEN)), "stopped"),
        (operated(("blocks.0.attn", *FROZEN), ("blocks.0.mlp", *FROZEN)), "stopped"),
        (operated(("blocks.0.attn", *FROZEN)), "frozen"),
        (operated(("blocks.1", *FROZEN)), "frozen"),
        (operated(("blocks.0", *FROZEN), ("blocks.0", *TRAINED)), "frozen"),
        (operated(("blocks.0", *TRAINED), ("blocks.0", *FROZEN)), "stopped"),
        (operated(("blocks.0", "reset_parameters", None)), "frozen"),
    ],
)
def test_a_layer_that_never_moved_since_a_command_froze_it_is_not_called_forgotten(
    commands: list[CommandRecord], cause: str
) -> None:
    """Seen: a person froze a layer, which begins a new stretch of looks; seven steps later guardian asked for it."""
    known = seen(lambda n, name: (0.0, 0.05) if name.startswith("blocks.0") else usual(n, name))[-1]
    [told] = [f for f in detect(known.model_copy(update={"commands": commands})) if f.kind == "layer_fault"]
    assert (told.severity, told.evidence["cause"]) == ("info", cause)


def test_a_layer_that_a_command_begins_anew_is_no_fault() -> None:
    """A policy would else go back from what somebody has just mended."""
    known = seen(struck(0.9, 0.05))[8]
    assert [f.evidence["cause"] for f in detect(known) if f.kind == "layer_fault"] == ["jump"]
    for name, at, is_told in (("blocks.1.mlp", 43, False), ("blocks.1.mlp", 20, True), ("head", 43, True)):
        command = {"kind": "model_layer_operation", "layer_name": name, "operation_name": "reset_parameters"}
        record = applied(at, 1e-3)
        record = record.model_copy(
            update={"proposal": record.proposal.model_copy(update={"command": parse_command(command)})}
        )
        told = detect(known.model_copy(update={"commands": [record]}))
        assert any(f.kind == "layer_fault" for f in told) == is_told, (name, at)


def test_a_model_of_one_layer_has_no_other_to_hold_it_against() -> None:
    known = seen(struck(20.0, 2.5))[8]
    alone = [
        look.model_copy(update={n: {"blocks.1.mlp": getattr(look, n)["blocks.1.mlp"]} for n in ("ratios", "rms")})
        for look in known.weights
    ]
    assert not [f for f in detect(known.model_copy(update={"weights": alone})) if f.kind == "layer_fault"]


def test_a_layer_that_drops_nearly_all_is_named() -> None:
    known = observe([2.3] * 20).model_copy(update={"facts": RunFacts(dropping={"blocks.0.drop": 0.99, "head": 0.96})})
    (told,) = (f for f in detect(known) if f.kind == "layer_fault")
    assert (told.severity, told.evidence["layer"], told.evidence["cause"]) == ("warning", "blocks.0.drop", "dropout")
    assert "99.0%" in told.summary
    assert "head" in told.summary


def test_most_layers_not_trained_is_on_purpose() -> None:
    assert not any(found(lambda n, name: usual(n, name) if name == "head" else (0.0, 0.05)))


def test_rules_know_the_name_of_the_layer() -> None:
    assert names_of(seen(struck(7.4, 1.5))[-3])["path"]["layer"] == "blocks.1.mlp"
    assert names_of(seen(usual)[-3])["path"]["layer"] == ""
    assert names_of(observe([1.0] * 20))["path"]["layer"] == ""
