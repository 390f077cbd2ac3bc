"""Where results come from, in a line that stands under every table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from agenttune.bench.cell import CellResult
from agenttune.bench.code_version import without_draw
from agenttune.bench.faults import AS_IT_WAS
from agenttune.protocol.text import clean, plural, utc_time

PROMPT_SUFFIX = ".j2"


def origin(results: Sequence[CellResult]) -> str:
    """Seeds, range, versions, machine, commit and checksums of some results."""
    seeds = sorted({result.cell.seed for result in results})
    splits = sorted({result.cell.split for result in results if result.cell.scenario.fault != AS_IT_WAS.name})
    machine = _machine(results)
    parts = [
        plural(len(results), "cell"),
        f"{plural(len(seeds), 'seed')} ({_spans(seeds)})",
        f"{' and '.join(splits)} range" if splits else "real runs",
        *(f"{name} {value}" for name, value in machine.items()),
        f"configuration {_checksum(_configurations(results))}",
        f"policies {_checksum(_codes(results, prompts=False))}",
        f"prompts {_checksum(_codes(results, prompts=True))}",
    ]
    ended = [result.at_s for result in results if result.at_s]
    if ended:
        parts.append(f"made {utc_time(min(ended))} to {utc_time(max(ended))}")
    return clean("; ".join(parts), 2000)


def mixed_code(results: Iterable[CellResult]) -> list[str]:
    """Whose results rest on more than one version of a contender or of the code, and must not be averaged."""
    versions: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for cell in (result.cell for result in results if result.cell.version):
        code = (without_draw(cell.version), *sorted(cell.code.values()))
        versions.setdefault((cell.scenario.name, cell.contender), set()).add(code)
    mixed = sorted({contender for (_, contender), found in versions.items() if len(found) > 1})
    if not mixed:
        return []
    return [
        f"Results of {', '.join(mixed)} are of more than one version of the code or of a policy, and must not be taken "
        "together: run the suite again, or report one folder at a time."
    ]


def _machine(results: Iterable[CellResult]) -> dict[str, str]:
    """Each fact, with all values that occur: cells of one benchmark may be of several machines or commits."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for name, value in result.machine.items():
            found.setdefault(name, {})[value] = None
    return {name: " and ".join(values) for name, values in found.items()}


def _spans(seeds: Sequence[int]) -> str:
    """Such as `0 to 4, 7`."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and spans[-1][1] == seed - 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans)


def _configurations(results: Iterable[CellResult]) -> set[str]:
    cells = (result.cell for result in results)
    return {
        json.dumps([c.scenario.model_dump(mode="json"), c.contender, c.spec, c.settings], sort_keys=True) for c in cells
    }


def _codes(results: Iterable[CellResult], prompts: bool) -> set[str]:
    codes = {(path, code) for result in results for path, code in result.cell.code.items()}
    return {f"{path} {code}" for path, code in codes if (PurePath(path).suffix == PROMPT_SUFFIX) == prompts}


def _checksum(texts: Iterable[str]) -> str:
    ordered = sorted(texts)
    return hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:12] if ordered else "none"
