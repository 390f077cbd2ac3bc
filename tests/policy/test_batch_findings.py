"""A bad batch is told from a bad rate by what the gradients do next."""

from __future__ import annotations

import pytest

from agenttune.detectors import detect
from agenttune.protocol.findings import Finding
from tests.policy.conftest import decay, observe


def found(grads: list[float]) -> list[Finding]:
    losses = decay(len(grads), 4.0, 1.0, 0.02)
    return [f for f in detect(observe(losses, grads=grads)) if f.kind == "bad_batch"]


@pytest.mark.parametrize(("out", "count"), [([4000.0], 1), ([429.0, 326.0, 268.0, 167.0, 133.0, 98.0], 6)])
def test_a_bad_batch_is_told_once_the_next_is_as_usual(out: list[float], count: int) -> None:
    before, after = decay(80, 1.5, 2.0, 0.2, 1), decay(10, 2.3, 2.5, 0.2, 2)
    assert not found([*before, *out]), "whether it goes on is not seen yet"
    (finding,) = found([*before, *out, *after])
    assert (finding.severity, finding.evidence["at_step"], finding.evidence["steps"]) == ("warning", 81, count)
    assert "bad data, not the rate" in finding.summary
    assert not found([*before, *out, *after, *decay(20, 2.3, 2.5, 0.2, 3)]), "it is long over"


def test_gradients_that_stay_high_or_come_down_slowly_are_no_bad_batch() -> None:
    before = decay(80, 1.5, 2.0, 0.2, 1)
    assert not found([*before, *decay(12, 200.0, 300.0, 0.3, 2)])
    assert not found([*before, 139, 252, 383, 300, 360, 152, 51, 38, 44, 53, 66])
    assert not found([*before, 9.8, 7.9, 4.4, 2.0, 1.2, 0.8])


def test_heavy_tails_are_usual_where_they_are_usual() -> None:
    heavy = [v * (40 if i % 17 == 3 else 6 if i % 5 == 2 else 1) for i, v in enumerate(decay(120, 1.0, 1.0, 0.9, 4))]
    assert not [f for n in range(60, 120) for f in found(heavy[:n])]
