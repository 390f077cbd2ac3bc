"""Cells that are made up rather than trained: what metrics, statistics and the report are tested with."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence

from agenttune.bench.catalog import TaskFacts
from agenttune.bench.cell import Cell, CellResult, Intervention, Outcome, Scenario
from agenttune.bench.faults import FaultKind
from agenttune.bench.training import EvalPoint, Fault, Recipe, Split, Trained
from agenttune.protocol.findings import Finding, Severity

Found = tuple[str, int, str] | tuple[str, int, str, Severity]
"""A finding's kind, step and words; a warning unless it says otherwise."""
RECIPE = Recipe(lr=1e-3, steps=200, eval_every=20)
START, GOOD = 2.3, 0.2
"""Loss before anything is learnt, and of a run that went well."""
TASKS = {
    "digits": TaskFacts(
        name="digits",
        about="made up",
        tier=1,
        implementation="none:None",
        recipe=RECIPE,
        target=0.3,
        chance=START,
    ),
    "valley": TaskFacts(
        name="valley", about="made up", tier=0, implementation="none:None", recipe=RECIPE, target=0.3, chance=START
    ),
    "pole": TaskFacts(
        name="pole",
        about="made up",
        tier=1,
        implementation="none:None",
        recipe=RECIPE,
        target=150.0,
        metric="eval_reward",
        direction="maximize",
        chance=10.0,
    ),
}
KINDS = {
    kind.name: kind
    for kind in (
        FaultKind(name="healthy", about="nothing", group="healthy"),
        FaultKind(
            name="lr_x30",
            about="too high",
            group="rate too high",
            findings=["divergence", "plateau"],
            right_move="lower the rate",
        ),
        FaultKind(
            name="one_layer",
            about="a layer",
            group="layer",
            findings=["layer_unstable"],
            strikes_layer=True,
            right_move="name the layer",
        ),
        FaultKind(name="label_noise", about="labels", group="data", right_move="stop early"),
    )
}
LEVELS: dict[str, float] = {"none": 1.0, "jitter": 1.01, "oracle": 0.2, "rules": 0.4, "idle": 1.0, "bad": 2.0}
"""Final loss of contenders where a fault does damage."""


def result(
    contender: str,
    final: float = GOOD,
    seed: int = 0,
    fault: str = "lr_x30",
    task: str = "digits",
    onset: int = 0,
    values: Sequence[float] | None = None,
    failure: str = "",
    findings: Iterable[Found] = (),
    interventions: Sequence[Intervention] = (),
    split: Split = "development",
    fault_layer: str | None = None,
    run_id: str | None = None,
    seconds: float = 2.0,
    **outcome: object,
) -> CellResult:
    """One cell.

    Args:
        values: Its evaluations but the last, evenly over the steps; default: a straight way to `final`.
    """
    facts = TASKS[task]
    steps = facts.recipe.steps
    start = facts.chance or 0.0
    so_far = [start + (final - start) * i / 10 for i in range(1, 10)] if values is None else list(values)
    points = [*so_far, final]
    evaluations = [
        EvalPoint(
            total_steps=round(steps * (i + 1) / len(points)),
            step=round(steps * (i + 1) / len(points)),
            seconds=seconds * (i + 1) / len(points),
            value=value,
        )
        for i, value in enumerate(points)
    ]
    trained = Trained(
        final=final,
        evaluations=evaluations,
        total_steps=steps,
        seconds=seconds,
        fault_layer=fault_layer,
        run_id=run_id,
    )
    found = list(findings)
    return CellResult(
        cell=Cell(
            scenario=Scenario(task=task, fault=fault, recipe=facts.recipe),
            seed=seed,
            split=split,
            contender=contender,
        ),
        state="failed" if failure else "done",
        outcome=Outcome.model_validate(
            {
                "trained": None if failure else trained,
                "fault": Fault(kind=fault, step=onset, values={"lr_factor": 30.5}),
                "failure": failure,
                "interventions": list(interventions),
                "findings": [
                    Finding(kind=kind, severity=rest[0] if rest else "warning", metric="loss", step=at, summary=words)
                    for kind, at, words, *rest in found
                ],
                "found_steps": [found_at for _, found_at, *_ in found],
                **outcome,
            }
        ),
        machine={"python": "3.12", "cpu": "made up"},
    )


def suite(
    contenders: dict[str, float] | None = None,
    seeds: int = 6,
    faults: Sequence[str] = ("healthy", "lr_x30"),
    tasks: Sequence[str] = ("digits",),
    noise: float = 0.02,
    change: Callable[[CellResult], CellResult] = lambda made: made,
) -> list[CellResult]:
    """All contenders in all scenarios: where nothing is wrong all end well, but for `bad`."""
    found = []
    for task in tasks:
        for fault in faults:
            for seed in range(seeds):
                luck = math.exp(random.Random(f"{task}:{fault}:{seed}").gauss(0, noise))
                for name, level in (LEVELS if contenders is None else contenders).items():
                    own = 1 + random.Random(f"{task}:{fault}:{seed}:{name}").gauss(0, noise / 4)
                    is_own = name not in ("none", "idle", "oracle")
                    good = GOOD * (level if name == "bad" else 1.0)
                    value = (good if fault == "healthy" else level) * luck * (own if is_own else 1.0)
                    found.append(change(result(name, value, seed, fault, task)))
    return found
