"""Paired tests of two models on the same questions or texts: a cluster bootstrap and a cluster permutation test."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

CONFIDENCE = 0.95
RESAMPLES = 9_999  # with the observed one 10,000: no p-value is below 0.0001
NUMBERS_AT_ONCE = 4_000_000  # of a block of resamples: 32 MB
ROUNDING = 1e-9  # by which equal differences may differ as floating-point sums

Score = Callable[[Float[np.ndarray, "r m"]], Float[np.ndarray, " r"]]


class Sample(NamedTuple):
    """What a model made of `q` questions or texts: counts that sum to those of its score."""

    ids: Shaped[np.ndarray, " q"]
    cluster: Shaped[np.ndarray, " q"]  # the video or document of each
    counts: Float[np.ndarray, "q m"]
    score: Score


class Paired(NamedTuple):
    """The first model's score minus the second's, as shares."""

    difference: float
    low: float  # of the 95% interval
    high: float
    p_value: float  # two-sided, of no difference
    clusters: int  # videos or documents: the size of the sample


def compare_samples(first: Sample, second: Sample, seed: int, resamples: int = RESAMPLES) -> Paired:
    """The `paired_test` of two models on the same questions or texts, summed over the clusters of the first.

    Raises ValueError as `same_questions` and `paired_test` do.
    """
    order, other = same_questions(first.ids, second.ids)
    cluster = first.cluster[order]
    counts = sum_by_cluster(first.counts[order], cluster), sum_by_cluster(second.counts[other], cluster)
    return paired_test(*counts, first.score, seed, resamples)


def paired_test(
    first: Float[np.ndarray, "c m"],
    second: Float[np.ndarray, "c m"],
    score: Score,
    seed: int,
    resamples: int = RESAMPLES,
) -> Paired:
    """Compares two models by a score of counts that are summed over `c` clusters, in the same order for both.

    The sample is the clusters: all questions about a video, or all texts of a document, move together, since they are
    correlated. The interval is the percentile interval of the cluster bootstrap, which draws clusters with the counts of
    both models. The p-value is that of the permutation test that exchanges the two models' counts of a cluster, which
    for a mean flips the signs of the clusters' differences (Dror et al., ACL 2018).

    Args:
      first: `m` counts of each cluster, such as right answers and questions, which sum over clusters.
      second: the same of the other model.
      score: of summed counts, along their last axis.
      seed: of the resampling.
      resamples: of each kind.

    Raises ValueError for fewer than two clusters.
    """
    count = len(first)
    if count < 2:
        raise ValueError(f"all is about {count} video or document: a test needs two or more")
    rng = np.random.default_rng(seed)
    totals = first.sum(axis=0, keepdims=True), second.sum(axis=0, keepdims=True)
    difference = float((score(totals[0]) - score(totals[1]))[0])

    drawn = []
    for rows in _blocks(resamples, count):
        places = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        times = np.bincount(places.reshape(-1), minlength=rows * count).reshape(rows, count).astype(float)
        drawn.append(score(times @ first) - score(times @ second))
    low, high = np.quantile(np.concatenate(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])

    differ = (first != second).any(axis=1)  # Exchanging equal counts changes nothing.
    change = (second - first)[differ]
    extreme = 1  # the observed difference itself
    for rows in _blocks(resamples, max(len(change), 1)):
        moved = rng.integers(2, size=(rows, len(change))).astype(float) @ change
        permuted = score(totals[0] + moved) - score(totals[1] - moved)
        extreme += int((np.abs(permuted) >= abs(difference) - ROUNDING).sum())
    return Paired(difference, float(low), float(high), extreme / (resamples + 1), count)


def answers_sample(
    ids: Shaped[np.ndarray, " q"], video: Shaped[np.ndarray, " q"], right: Float[np.ndarray, " q"]
) -> Sample:
    """A sample whose score is accuracy; `right` is the share of seeds that got each question right."""
    return Sample(ids, video, np.stack([right, np.ones(len(right))], axis=1), share_right)


def share_right(counts: Float[np.ndarray, "r 2"]) -> Float[np.ndarray, " r"]:
    """Accuracy, of counts of right answers and of questions."""
    return counts[:, 0] / counts[:, 1]


def sum_by_cluster(counts: Float[np.ndarray, "q m"], cluster: Shaped[np.ndarray, " q"]) -> Float[np.ndarray, "c m"]:
    """The counts of each cluster, clusters in the order of their names."""
    names, place = np.unique(cluster, return_inverse=True)
    summed = np.zeros((len(names), counts.shape[1]))
    np.add.at(summed, place, counts)
    return summed


def same_questions(
    first_ids: Shaped[np.ndarray, " n"], second_ids: Shaped[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The orders that bring both to the same questions or texts.

    Raises ValueError where they are not the same, or one comes twice, so that nothing says which is which.
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


def _blocks(resamples: int, size: int) -> list[int]:
    """How many resamples of this size are made at a time, block by block."""
    most = max(1, NUMBERS_AT_ONCE // size)
    return [min(most, resamples - start) for start in range(0, resamples, most)]
