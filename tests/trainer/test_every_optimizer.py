"""Each of torch's optimizers: what is said to be changeable can be set and trained with, and the rest is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from agenttune.errors import NotSupported, UserError
from agenttune.protocol.commands import UpdateOptimizer
from agenttune.trainer.lr.optimizers import NAMED, apply_writes, differing, plan_writes, read_value, tunable_names

pytestmark = pytest.mark.trainer
KINDS: list[type[Optimizer]] = [
    kind
    for name in sorted(vars(torch.optim))
    if isinstance(kind := getattr(torch.optim, name), type) and issubclass(kind, Optimizer) and kind is not Optimizer
]


def built(kind: type[Optimizer], **options: Any) -> tuple[Optimizer, Callable[[], Any]]:
    """An optimizer after its first step, and its next steps."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer: Optimizer = kind([weight], **{"lr": 0.1, **options})

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = (weight**2).sum()
        found.backward()  # type: ignore[no-untyped-call]
        if kind is torch.optim.SparseAdam and weight.grad is not None:
            weight.grad = weight.grad.to_sparse()
        return found

    def step() -> Any:
        return optimizer.step(loss)  # type: ignore[arg-type]

    step()
    return optimizer, step


def asked(name: str, value: Any) -> UpdateOptimizer:
    given = {name: value} if name in NAMED else {"other": {name: value}}
    return UpdateOptimizer.model_validate({"kind": "update_optimizer", **given})


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_listed_can_be_set_to_what_it_is(kind: type[Optimizer]) -> None:
    """Seen before: AdamW's `decoupled_weight_decay` was listed; setting it was a TypeError of its constructor."""
    optimizer, step = built(kind)
    for name in tunable_names(optimizer):
        value = read_value(optimizer, name)[0]
        writes = plan_writes(optimizer, asked(name, value), frozenset())
        apply_writes(optimizer, writes)
        assert writes
        assert not differing(optimizer, writes)
        step()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_listed_is_refused_in_a_sentence(kind: type[Optimizer]) -> None:
    optimizer, _ = built(kind)
    group = optimizer.param_groups[0]
    for name in {*group, "nonsense", *NAMED} - {*tunable_names(optimizer), "params"}:
        value = group[name] if isinstance(group.get(name), (bool, int, float)) else 0.5
        given = asked(name, [0.9, 0.99]) if name == "betas" else asked(name, value)
        with pytest.raises((UserError, NotSupported), match=rf"^[^{{}}]*\b{name}\b"):
            plan_writes(optimizer, given, frozenset())


def test_what_torch_sets_by_itself_is_no_option() -> None:
    optimizer, _ = built(torch.optim.AdamW)
    assert tunable_names(optimizer) == ["betas", "eps", "weight_decay", "amsgrad"]
    adam, _ = built(torch.optim.Adam)
    assert ("decoupled_weight_decay" in tunable_names(adam)) == ("decoupled_weight_decay" in adam.param_groups[0])


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_what_is_counted_up_to_stays_a_whole_number() -> None:
    optimizer, step = built(torch.optim.Muon)
    with pytest.raises(UserError, match="ns_steps of Muon is a whole number"):
        plan_writes(optimizer, asked("ns_steps", 5.5), frozenset())
    apply_writes(optimizer, plan_writes(optimizer, asked("ns_steps", 6.0), frozenset()))
    step()
    assert read_value(optimizer, "ns_steps") == [6]
