"""The best rate and the best schedule of the simulated quadratic, by computation: what runs are checked against."""

from __future__ import annotations

import math

import numpy as np

from agenttune.bench.tasks.sim_quadratic import FLOOR, Law, Vector


def expected_loss(law: Law, lrs: Vector) -> Vector:
    """The loss in the end that is to be expected, of several schedules at once, in closed form.

    Args:
        law: The quadratic.
        lrs: [n_schedules, n_steps], rates.

    Returns:
        [n_schedules]; infinite where training diverges.
    """
    mean, variance = np.tile(law.start, (len(lrs), 1)), np.zeros((len(lrs), len(law.start)))
    with np.errstate(over="ignore", invalid="ignore"):
        for step, sharp in enumerate(law.sharpening(lrs.shape[1])):
            pull = lrs[:, step, None] * (sharp * law.curvatures)
            mean *= 1 - pull
            variance = variance * (1 - pull) ** 2 + (pull * law.spread) ** 2
        found = 0.5 * (mean**2 + variance) @ law.curvatures + FLOOR
    return np.where(np.isfinite(found), found, np.inf)


def best_constant(law: Law, steps: int, points: int = 200) -> tuple[float, float]:
    """The constant rate whose expected loss in the end is lowest, and that loss; by a fine grid, refined once."""
    low, high = law.largest_lr * 1e-3, law.largest_lr
    for _ in range(2):
        rates = np.geomspace(low, high, points)
        found = expected_loss(law, np.tile(rates[:, None], (1, steps)))
        at = int(found.argmin())
        low, high = rates[max(0, at - 1)], rates[min(points - 1, at + 1)]
    return float(rates[at]), float(found[at])


def best_schedule(law: Law, steps: int, knots: int = 12) -> tuple[Vector, float]:
    """The best schedule among those that are straight, in the logarithm of the rate, between evenly spaced knots.

    Returns:
        Its rates, [n_steps], and the expected loss in the end.
    """
    from scipy.optimize import minimize  # of the extra `bench`

    places, at = np.linspace(0, steps - 1, knots), np.arange(steps)

    def rates(logs: Vector) -> Vector:
        found: Vector = np.exp(np.stack([np.interp(at, places, row) for row in np.atleast_2d(logs)]))
        return found

    def loss_and_slope(logs: Vector) -> tuple[float, Vector]:
        nudge = 1e-4
        found = np.log(expected_loss(law, rates(np.vstack([logs, logs + nudge * np.eye(knots)]))))
        return float(found[0]), (found[1:] - found[0]) / nudge

    first = np.full(knots, math.log(best_constant(law, steps)[0]))
    bounds = [(math.log(law.largest_lr * 1e-4), math.log(law.largest_lr * 0.99))] * knots
    found = minimize(loss_and_slope, first, jac=True, bounds=bounds, method="L-BFGS-B")
    return rates(found.x)[0], float(expected_loss(law, rates(found.x))[0])
