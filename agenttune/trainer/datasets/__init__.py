"""Training datasets whose parameters can be changed while a run draws from them.

They know nothing of commands: those are carried out in `trainer/commands/dataset.py`.
"""

from __future__ import annotations

from agenttune.trainer.datasets.interactive import make_interactive_dataset
from agenttune.trainer.datasets.mixture import Mixture
from agenttune.trainer.datasets.record import capture_dataset, dataset_as_captured, read_dataset, restore_dataset
from agenttune.trainer.datasets.sources import SourceCollator, SourceLosses, attach_sources

__all__ = [
    "Mixture",
    "SourceCollator",
    "SourceLosses",
    "attach_sources",
    "capture_dataset",
    "dataset_as_captured",
    "make_interactive_dataset",
    "read_dataset",
    "restore_dataset",
]
