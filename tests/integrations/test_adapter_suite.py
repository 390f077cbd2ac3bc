"""The adapters' conformance suite over our own loops, and over an adapter as a stranger would write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import agenttune
from agenttune.errors import ConfigError, UserError
from agenttune.testing.adapter_conformance import STEPS, AdapterTestCase, Train
from agenttune.trainer import Options
from tests.integrations.conftest import Trained, Witness
from tests.integrations.loops import LightningLoop, Loop, PlainLoop, TrainerLoop, epochs, loader_of, parts_of, update
from tests.trainer.conftest import Points, TinyModel

pytestmark = pytest.mark.trainer

MINE = '''
from agenttune.trainer import PlainAdapter


class Renamed(PlainAdapter):
    """A framework of its own, whose evaluation is its own."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.framework = "homegrown 1.0"
'''


class Asking:
    """Stands where a loop's driver hands in its commands."""

    def __init__(self, runs_dir: Path, at_step: Callable[[int], None]) -> None:
        self.runs_dir, self.submit = runs_dir, at_step


@pytest.mark.parametrize("loop", [TrainerLoop, LightningLoop, PlainLoop], ids=lambda loop: loop.name)
class TestOurLoops(AdapterTestCase):
    @pytest.fixture
    def train(self, loop: type[Loop], tmp_path: Path) -> Train:
        def run(options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
            torch.manual_seed(7)
            driver = loop()
            runs_dir = tmp_path / "runs" if options is None else Path(str(options.runs_dir))
            trained = Trained(driver.model(), Witness(), runs_dir, held={"temperature": 1.0})
            desk: Any = Asking(runs_dir, at_step)
            driver._train(trained, desk, runs_dir.parent, driver.dataset(), options is not None)
            return trained.witness.losses

        return run


class TestAdapterOfAStranger(AdapterTestCase):
    @pytest.fixture
    def train(self, tmp_path: Path) -> Train:
        (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
        reference = f"{tmp_path / 'mine.py'}:Renamed"

        def run(options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
            torch.manual_seed(7)
            model = TinyModel()
            optimizer, scheduler = parts_of(model)
            batches, losses = epochs(loader_of(Points(64)), STEPS), list[float]()
            if options is None:
                return [update(model, optimizer, scheduler, batch).item() for batch in batches]
            parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            with agenttune.session(**parts, max_steps=STEPS, adapter=reference, options=options) as s:
                for batch in batches:
                    losses.append(update(model, optimizer, scheduler, batch).item())
                    at_step(s.global_step + 1)
                    if s.step({"loss": losses[-1]}):
                        break
            return losses

        return run


def test_an_adapter_is_a_class_or_names_one(tmp_path: Path) -> None:
    model = TinyModel()
    optimizer, _ = parts_of(model)
    with pytest.raises(UserError, match="not a class that extends PlainAdapter"):
        agenttune.session(model=model, optimizer=optimizer, adapter=TinyModel)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="there is no file"):
        agenttune.session(model=model, optimizer=optimizer, adapter="./gone.py:Mine")
    (tmp_path / "mine.py").write_text("class Mine:\n    pass\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"must be a class that extends agenttune\.trainer\.PlainAdapter"):
        agenttune.session(model=model, optimizer=optimizer, adapter=f"{tmp_path}/mine.py:Mine")
