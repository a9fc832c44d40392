"""How sure a difference is: images drawn again, the same for all; the spread over paired seeds; Holm's correction.

Images and seeds cross: every seed sees the same images. What images do to all seeds alike and what varies from seed to
seed are drawn apart and added. Images are drawn with replacement; images of one sequence together, for they are alike.
Seeds are few, and resamples of three values hardly vary (Owen 2007, "The pigeonhole bootstrap", arXiv 0712.1111, is for
many of both): their part is drawn from Student's t with their standard error instead.
"""

# pyright: strict, reportMissingTypeStubs=false, reportUnknownMemberType=false
# SciPy has no types.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

ALPHA = 0.05
FEWEST = 10  # images or sequences; with fewer, no interval can be trusted
_SHUFFLES = 5


class Interval(NamedTuple):
    """Of a difference from the first arm. low, high: 95 %, of this one alone. corrected_low, corrected_high: the same
    after Holm's correction for the arms that are compared with the first; of a single one the same. p: two-sided,
    corrected. All NaN with fewer than FEWEST images that have what is measured."""

    value: float
    low: float
    high: float
    corrected_low: float
    corrected_high: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the corrected interval leaves out 0."""
        return self.corrected_low > 0 or self.corrected_high < 0


def resamples(units: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[I, 1 + count]: how often each image is drawn; the first column is the data set itself. units: [I], the number of
    the sequence that each image belongs to, or its own."""
    total = int(units.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(total, np.full(total, 1 / total), count)
    return np.concatenate([np.ones((len(units), 1)), drawn.T[units]], 1)


def intervals(differences: Sequence[np.ndarray], units: int, seed: int) -> list[Interval]:
    """Of one measure. differences: of each arm, [S, 1 + count]: by paired seed, on the data set itself and on each of
    its `resamples`. units: the images or sequences that have what is measured."""
    draws = [_draws(one, units, seed) for one in differences]
    values = [float(one[:, 0].mean()) for one in differences]
    nothing = [np.nan] * 5
    usable = [units >= FEWEST and np.isfinite(value) for value in values]
    found = [Interval(value, *nothing) for value in values]
    chances = {arm: _chance(draws[arm]) for arm, known in enumerate(usable) if known}
    left, still, p = len(chances), True, 0.0
    for arm in sorted(chances, key=chances.__getitem__):
        p = max(p, min(1.0, left * chances[arm]))
        corrected = _quantiles(draws[arm], ALPHA / left)
        found[arm] = Interval(values[arm], *_quantiles(draws[arm], ALPHA), *corrected, p)
        still = still and found[arm].shown
        left -= still  # where one is not shown, those after it are held to its level
    return found


def _draws(difference: np.ndarray, units: int, seed: int) -> np.ndarray:
    """What the difference might have been, [count]. NaN, in resamples that lack what is measured, are left out."""
    mean = difference.mean(0)
    known = np.isfinite(mean[1:])
    again = mean[1:][known]
    if not np.isfinite(mean[0]) or not len(again) or units < 2:
        return np.full(1, mean[0])
    random = np.random.default_rng([seed, units])
    # Few images: the tails of Student's t, and the bias of a variance over n.
    tails = np.sqrt(units / random.chisquare(units - 1, len(again)))
    seeds, shared = len(difference), 1.0
    if seeds > 1 and again.var() > 0:
        # What images do to one seed otherwise than to the next is in the spread of seeds already.
        apart = (difference[:, 1:][:, known] - again).var(1).sum() / (seeds - 1)
        shared = np.sqrt(max(0.0, 1 - apart / seeds / again.var()))
    draws = mean[0] + shared * (again - again.mean()) * tails
    if seeds > 1:
        # The quantiles of t themselves, shuffled: a thousand drawn at random would tell its tails badly. Each on both
        # sides, so that swapped arms give the negative.
        draws = np.tile(draws, _SHUFFLES)
        chances = (random.permutation(len(draws)) + 0.5) / len(draws)
        spread = np.asarray(student_t.ppf(chances, seeds - 1))
        spread = spread * difference[:, 0].std(ddof=1) / np.sqrt(seeds)
        draws = np.concatenate([draws + spread, draws - spread])
    return draws


def _quantiles(draws: np.ndarray, alpha: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def _chance(draws: np.ndarray) -> float:
    """Two-sided: how often a draw lies on the other side of 0, or on it; never 0."""
    other = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (int(other) + 1) / (len(draws) + 1))
