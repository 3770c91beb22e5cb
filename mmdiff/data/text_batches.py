"""Tokenised texts in, batches of texts of like length out: little padding, few shapes.

An example is a NamedTuple of arrays, one of them `tokens`; those with axes grow along the first by zeros to the length
of their batch.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import Int

from mmdiff.data.loader import Batches, stack
from mmdiff.ranges import check_range

Example = TypeVar("Example")


@dataclasses.dataclass
class TextDataConfig:
    """Which texts, and how much of each is seen."""

    corpus: str = ""  # folder of train, dev and test files: JSON lines, CoNLL or plain text; or one file
    longest: int = 256  # tokens of a text that are seen; no more than the model has positions
    buckets: int = 4  # lengths that texts are padded to: more of them is less padding, and as many compilations
    threads: int = 2

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if not self.corpus:
            raise ValueError("data.corpus is missing: give the folder of the texts as --config.data.corpus")
        check_range(self, "data", "longest", least=3)
        check_range(self, "data", "buckets", "threads", least=1)


def bucket_lengths(lengths: Sequence[int], buckets: int, multiple: int = 8) -> tuple[int, ...]:
    """At most `buckets` lengths, multiples of `multiple`, that texts of these lengths are padded to with least padding.

    Found exactly, by dynamic programming over the lengths that may end a bucket.
    """
    rounded = np.array([max(-(-length // multiple), 1) for length in lengths])
    ends, counts = np.unique(rounded, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: padded tokens of the texts up to ends[j - 1], and where the last bucket begins.
    cost = np.where(np.arange(len(ends) + 1) == 0, 0.0, np.inf)
    starts = []
    for _ in range(min(buckets, len(ends))):
        with_one_more = cost[:, None] + (before[None, 1:] - before[:, None]) * ends[None, :]
        allowed = np.arange(len(ends) + 1)[:, None] <= np.arange(len(ends))[None, :]
        with_one_more = np.where(allowed, with_one_more, np.inf)
        starts.append(with_one_more.argmin(axis=0))
        cost = np.concatenate([[0.0], with_one_more.min(axis=0)])
    found, last = [], len(ends)
    for start in reversed(starts):
        if last == 0:
            break
        found.append(int(ends[last - 1]) * multiple)
        last = int(start[last - 1])
    return tuple(reversed(found))


def padded(example: Example, length: int) -> Example:
    """The example with `length` tokens."""

    def grow(x):
        x = np.asarray(x)
        if x.ndim == 0:
            return x
        longer = np.zeros((length, *x.shape[1:]), x.dtype)  # np.pad takes ten times as long
        longer[: len(x)] = x
        return longer

    return jax.tree.map(grow, example)


class TextStream(Sequence):
    """The endless examples of a run, each padded to the length of its global batch: item `i` is of batch i // batch_size.

    In an epoch every text comes once. What is left over in a bucket goes to the next longer one; the epoch's last batch is
    filled up with texts drawn at random.
    """

    def __init__(self, examples: Sequence[Example], lengths: tuple[int, ...], batch_size: int, seed: int):
        """`lengths` are the buckets', the last as long as the longest text; `batch_size` is that over all hosts."""
        self._examples, self._lengths, self._batch_size, self._seed = examples, np.array(lengths), batch_size, seed
        self._bucket = np.searchsorted(self._lengths, [len(example.tokens) for example in examples])
        self.batches_per_epoch = -(-len(examples) // batch_size)
        # Threads ask for the batches around the same place.
        self._plan = functools.lru_cache(maxsize=4)(self._make_plan)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        batch, place = divmod(index, self._batch_size)
        epoch, batch = divmod(batch, self.batches_per_epoch)
        members = self._plan(epoch)[batch]
        length = self._lengths[self._bucket[members].max()]
        return padded(self._examples[members[place]], int(length))

    def _make_plan(self, epoch: int) -> Int[np.ndarray, "batches b"]:
        rng = np.random.default_rng([self._seed, epoch])
        whole, left = [], np.zeros(0, int)
        for bucket in range(len(self._lengths)):
            members = np.concatenate([left, rng.permutation(np.flatnonzero(self._bucket == bucket))])
            full = len(members) // self._batch_size * self._batch_size
            whole.append(members[:full])
            left = members[full:]
        if len(left):
            filling = rng.integers(len(self._examples), size=self._batch_size - len(left))
            whole.append(np.concatenate([left, filling]))
        return rng.permutation(np.concatenate(whole).reshape(-1, self._batch_size))


def text_training_batches(
    examples: Sequence[Example],
    lengths: tuple[int, ...],
    batch_size: int,
    seed: int,
    threads: int,
    host: int,
    hosts: int,
) -> Batches[Example]:
    """Endless batches; `batch_size` is this host's share."""
    return Batches(TextStream(examples, lengths, batch_size * hosts, seed), batch_size, threads, host, hosts)


def text_evaluation_batches(
    examples: Sequence[Example], lengths: tuple[int, ...], batch_size: int, host: int, hosts: int
) -> Iterator[Example]:
    """Every text once, the shortest first, this host's rows of each global batch; the last is filled up with empty ones.

    `lengths` may end below the longest text: it then makes a batch of its own length.
    """
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].tokens))
    everywhere = batch_size * hosts
    for first in range(0, len(order), everywhere):
        members = order[first : first + everywhere]
        longest = len(examples[members[-1]].tokens)
        length = next((length for length in lengths if length >= longest), longest)
        own = members[host * batch_size : (host + 1) * batch_size]
        rows = [padded(examples[index], length) for index in own]
        empty = jax.tree.map(np.zeros_like, padded(examples[members[0]], length))
        yield stack(rows + [empty] * (batch_size - len(rows)))
