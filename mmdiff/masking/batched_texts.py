"""Rows of tokens in, what a model makes of each of them out: rows of like length run together."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int
from tqdm import tqdm

from mmdiff.data.text_batches import bucket_lengths, text_evaluation_batches

BUCKETS = 10  # lengths that rows are padded to


class _Row(NamedTuple):
    place: Int[np.ndarray, "*b"]  # from 1; 0 of rows that only fill up a batch
    tokens: Int[np.ndarray, "*b t"]
    valid: Bool[np.ndarray, "*b t"]


def run_in_batches(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    rows: Sequence[Int[np.ndarray, " _"]],
    batch_size: int = 64,
    lengths: tuple[int, ...] | None = None,
    doing: str = "",
) -> Iterator[tuple[int, np.ndarray]]:
    """The place of each row and its part of function(tokens, valid), the shortest rows first.

    Args:
      function: jitted; its output has a row for each row of tokens, and may have a position for each token and padding.
      rows: none of them empty.
      batch_size: rows that run together.
      lengths: that rows are padded to, for calls that should share compilations; those with the least padding if absent.
      doing: what a progress bar says; without, there is none.
    """
    examples = [_Row(np.int32(i), np.asarray(row), np.ones(len(row), bool)) for i, row in enumerate(rows, start=1)]
    if not examples:
        return
    lengths = lengths or bucket_lengths([len(row) for row in rows], BUCKETS)
    with tqdm(total=len(rows), desc=doing, unit="text", disable=not doing) as bar:
        for batch in text_evaluation_batches(examples, lengths, batch_size, 0, 1):
            found = np.asarray(function(batch.tokens, batch.valid))
            real = np.flatnonzero(batch.place)
            for row in real:
                yield int(batch.place[row]) - 1, found[row]
            bar.update(len(real))
