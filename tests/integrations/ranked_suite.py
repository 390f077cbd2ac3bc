"""The adapters' conformance suite on each of several processes under DDP; `test_ranked_suite` starts them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import agenttune
from agenttune.testing.adapter_conformance import STEPS, AdapterTestCase, Train
from agenttune.trainer import Options
from tests.integrations.conftest import Trained, Witness
from tests.integrations.loops import LightningLoop, TrainerLoop, epochs, loader_of, parts_of, update
from tests.integrations.test_adapter_suite import Asking
from tests.trainer.conftest import Points, TinyModel

RANK = int(os.environ.get("RANK", "0"))


class RankedCase(AdapterTestCase):
    """All ranks run the same tests at the same time, in one folder; rank 0 asks."""

    latency_steps = 1

    @pytest.fixture
    def tmp_path(self, request: pytest.FixtureRequest) -> Path:
        folder = Path(os.environ["SHARED"]) / request.node.name
        folder.mkdir(parents=True, exist_ok=True)
        return Path(folder)

    @pytest.fixture
    def train(self) -> Train:
        def run(options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
            torch.manual_seed(7)
            losses = self.train_once(options, at_step if RANK == 0 else lambda step: None)
            if dist.is_initialized():
                dist.barrier()  # what rank 0 has written is there for all
            return losses

        return run

    def train_once(self, options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
        raise NotImplementedError


class TestLoopOfOnesOwn(RankedCase):
    def train_once(self, options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        model = DistributedDataParallel(TinyModel())
        optimizer, scheduler = parts_of(model)
        torch.manual_seed(7 + RANK)
        batches, losses = epochs(loader_of(Points(64)), STEPS), list[float]()
        if options is None:
            return [update(model, optimizer, scheduler, batch).item() for batch in batches]
        parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        with agenttune.session(**parts, max_steps=STEPS, options=options) as s:
            for batch in batches:
                losses.append(update(model, optimizer, scheduler, batch).item())
                at_step(s.global_step + 1)
                if s.step({"loss": losses[-1]}):
                    break
        return losses


class DdpTrainerLoop(TrainerLoop):
    def values(self, path: Path) -> dict[str, Any]:
        return super().values(path) | {"ddp_backend": "gloo", "ddp_find_unused_parameters": False}


class TestTrainer(RankedCase):
    def train_once(self, options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
        return drive(DdpTrainerLoop(), options, at_step)


class DdpLightningLoop(LightningLoop):
    options_of_trainer = {"devices": 2, "strategy": "ddp"}  # noqa: RUF012


class TestLightning(RankedCase):
    def train_once(self, options: Options | None, at_step: Callable[[int], None]) -> Sequence[float]:
        return drive(DdpLightningLoop(), options, at_step)


def drive(driver: Any, options: Options | None, at_step: Callable[[int], None]) -> list[float]:
    runs_dir = Path(os.environ["SHARED"]) / "plain" if options is None else Path(str(options.runs_dir))
    trained = Trained(driver.model(), Witness(), runs_dir, held={"temperature": 1.0})
    desk: Any = Asking(runs_dir, at_step)
    driver._train(trained, desk, runs_dir.parent, driver.dataset(), options is not None)
    return trained.witness.losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["SHARED"] = sys.argv[1]
    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", sys.argv[2], __file__])
    if dist.is_initialized():
        dist.destroy_process_group()
    sys.exit(int(code))
