"""Records in, shuffled batches out, in an order that the number of hosts does not change and any step can be found in."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import grain.python as grain
import jax
import numpy as np

from mmdiff.data.records import decode, read_split
from mmdiff.data.video_examples import VideoBatch

# (record, window, rng or None) -> one example
MakeExample = Callable[..., VideoBatch]
Example = TypeVar("Example")


def stack(examples: list[Example]) -> Example:
    """Examples, all of one kind of tuple of arrays, as one batch."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


class Batches(Generic[Example]):
    """A host's rows of endless global batches.

    Example `i` of the run, its random draws too, is the same on any number of hosts; `n` global batches are the first
    `n * batch_size * hosts` examples, and this host reads its own stretch of each. So the number of batches taken is
    all there is to remember of a position.
    """

    def __init__(
        self, examples: grain.MapDataset | Sequence[Example], batch_size: int, threads: int, host: int, hosts: int
    ):
        """`examples` are the endless ones of the run, made when they are asked for; `batch_size` is this host's share."""

        def own(row: int) -> Example:
            batch, place = divmod(row, batch_size)
            return examples[(batch * hosts + host) * batch_size + place]

        self._own, self._batch_size, self._threads = own, batch_size, threads
        self.go_to(0)

    def go_to(self, batch: int) -> None:
        """The next batch will be this one, counted from 0: as many as were taken before it."""
        self.close()
        self._iterator = iter(
            grain.MapDataset.range(batch * self._batch_size, sys.maxsize)
            .map(self._own)
            # The next batch, while this one is used, and work for the threads while batches change hands.
            .to_iter_dataset(grain.ReadOptions(self._threads, self._batch_size + self._threads))
            # After the map: the length of endless data, rounded up to whole batches, would not fit an integer.
            .batch(self._batch_size, batch_fn=stack)
        )

    def __iter__(self) -> "Batches[Example]":
        return self

    def __next__(self) -> Example:
        return next(self._iterator)

    def close(self) -> None:
        """Ends the threads; `go_to` begins anew."""
        iterator, self._iterator = getattr(self, "_iterator", None), None
        if iterator is not None:
            iterator.close()


def training_batches(
    folder: str,
    make_example: MakeExample,
    batch_size: int,
    seed: int,
    threads: int,
    host: int,
    hosts: int,
) -> Batches[VideoBatch]:
    """Endless batches, each visit to a record drawing one of its windows and a crop; `batch_size` is this host's share.

    Raises RecordError where there are no training records.
    """
    source = read_split(folder, "train")

    def visit(example, rng: np.random.Generator) -> VideoBatch:
        record = decode(example)
        return make_example(record, int(rng.integers(len(record.windows))), rng)

    return shuffled_batches(source, visit, batch_size, seed, threads, host, hosts)


def evaluation_batches(
    folder: str, split: str, make_example: MakeExample, batch_size: int, host: int, hosts: int
) -> Iterator[VideoBatch]:
    """The middle window of every record of a split once, in order; the last batch filled up with empty examples."""

    def look(example) -> VideoBatch:
        record = decode(example)
        return make_example(record, len(record.windows) // 2, None)

    return batches_in_order(read_split(folder, split), look, batch_size, host, hosts)


def shuffled_batches(
    source, visit: Callable[..., Example], batch_size: int, seed: int, threads: int, host: int, hosts: int
) -> Batches[Example]:
    """Endless batches of what can be indexed; `visit` makes an example of an item and a generator."""
    examples = grain.MapDataset.source(source).seed(seed).shuffle().repeat().random_map(visit)
    return Batches(examples, batch_size, threads, host, hosts)


def batches_in_order(source, look: Callable[..., Example], batch_size: int, host: int, hosts: int) -> Iterator[Example]:
    """Every item once, this host's rows of each global batch; the last is filled up with empty examples."""
    for first in range(host * batch_size, len(source) + host * batch_size, batch_size * hosts):
        indices = range(first, min(first + batch_size, len(source)))
        examples = [look(source[index]) for index in indices]
        empty = jax.tree.map(np.zeros_like, examples[0] if examples else look(source[0]))
        yield stack(examples + [empty] * (batch_size - len(examples)))
