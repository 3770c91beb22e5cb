"""What two models got right of the same questions in, how much they differ and whether that may be chance out."""

from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, Shaped

CONFIDENCE = 0.95
RESAMPLES = 9_999  # with the observed one 10,000: no two-sided p-value is below 0.0002
NUMBERS_AT_ONCE = 4_000_000  # of a block of resamples: 32 MB


class Paired(NamedTuple):
    """The first's accuracy minus the second's, as shares."""

    difference: float
    low: float  # of the 95% interval
    high: float
    p_value: float  # two-sided, of no difference
    questions: int


def paired_test(
    first: Float[np.ndarray, " q"], second: Float[np.ndarray, " q"], seed: int, resamples: int = RESAMPLES
) -> Paired:
    """Two models' share of seeds that got each of `q` questions right, in the same order, compared.

    The sample is the questions. The interval is the percentile bootstrap's: questions are drawn with both answers, so
    what is hard for both cancels. The p-value is the permutation test's: were the models alike, either could have
    given either answer, so signs of differences are flipped.

    Raises ValueError for fewer than two questions.
    """
    # For means, resampling pairs is resampling their differences, and half the work.
    difference = first - second
    if len(difference) < 2:
        raise ValueError(f"{len(difference)} question is no sample: a test needs two or more")
    rng = np.random.default_rng(seed)
    interval = scipy.stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        batch=_batch(difference),
        confidence_level=CONFIDENCE,
        method="percentile",  # the default's jackknife needs q x q numbers
        rng=rng,
    ).confidence_interval
    told_apart = difference[difference != 0]  # a flipped 0 stays 0
    p_value = 1.0
    if len(told_apart):
        p_value = scipy.stats.permutation_test(
            (told_apart,),
            np.sum,
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=_batch(told_apart),
            rng=rng,
        ).pvalue
    return Paired(float(difference.mean()), float(interval.low), float(interval.high), float(p_value), len(difference))


def same_questions(
    first_ids: Shaped[np.ndarray, " n"], second_ids: Shaped[np.ndarray, " m"]
) -> tuple[np.ndarray, np.ndarray]:
    """The orders that bring both to the same questions.

    Raises ValueError where the questions are not the same, or one comes twice, so that nothing says which is which.
    """
    for ids in (first_ids, second_ids):
        if len(np.unique(ids)) < len(ids):
            raise ValueError("a question comes twice under one id")
    orders = np.argsort(first_ids), np.argsort(second_ids)
    if not np.array_equal(first_ids[orders[0]], second_ids[orders[1]]):
        shared = len(np.intersect1d(first_ids, second_ids))
        raise ValueError(
            f"not the same questions: {len(first_ids)} and {len(second_ids)} were answered, {shared} by both"
        )
    return orders


def holm(p_values: list[float]) -> list[float]:
    """P-values of a family of tests, raised so that the chance of any false finding stays at the level (Holm, 1979)."""
    order = np.argsort(p_values)
    raised = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return adjusted.tolist()


def _batch(sample: np.ndarray) -> int:
    return max(1, NUMBERS_AT_ONCE // len(sample))
