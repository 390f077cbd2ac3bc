"""The conformance suite passes on two processes under DDP, as `torchrun --nproc_per_node 2` starts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations import ranked_suite
from tests.warm import run_ranks

pytestmark = pytest.mark.trainer


@pytest.mark.quick("TestLoopOfOnesOwn", "TestTrainer")
@pytest.mark.parametrize("loop", ["TestLoopOfOnesOwn", "TestTrainer", "TestLightning"])
def test_the_suite_passes_on_two_processes(loop: str, tmp_path: Path) -> None:
    for ended in run_ranks(Path(ranked_suite.__file__), str(tmp_path), loop, folder=tmp_path):
        assert ended.code == 0, ended.out[-3000:] + ended.err[-2000:]
        assert ended.out.startswith("....")
