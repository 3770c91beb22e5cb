"""Records in, shuffled batches whose position can be saved out."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import grain.python as grain
import jax
import numpy as np

from mmdiff.data.records import RecordError, decode, read_split
from mmdiff.data.video_examples import VideoBatch

# (record, window, rng or None) -> one example
MakeExample = Callable[..., VideoBatch]
Example = TypeVar("Example")


def stack(examples: list[Example]) -> Example:
    """Examples, all of one kind of tuple of arrays, as one batch."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *examples)


def training_batches(
    folder: str,
    make_example: MakeExample,
    batch_size: int,
    seed: int,
    threads: int,
    host: int,
    hosts: int,
) -> grain.DatasetIterator:
    """Endless batches of this host's share, each visit to a record drawing one of its windows and a crop.

    The iterator's state goes into a checkpoint (`grain.checkpoint.CheckpointSave`): a resumed run sees the batches
    that the unbroken one would have seen.

    Raises RecordError where a host would have no record.
    """
    source = read_split(folder, "train")
    if len(source) < hosts:
        raise RecordError(f"{folder} has {len(source)} training records for {hosts} hosts; each needs at least one")

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
) -> grain.DatasetIterator:
    """Endless batches of this host's share of what can be indexed; `visit` makes an example of an item and a generator."""
    return iter(
        grain.MapDataset.source(source)[host::hosts]
        # The host enters the seed: a random map draws by the index inside the host's slice.
        .seed(seed * hosts + host)
        .shuffle()
        .repeat()
        .random_map(visit)
        .to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size))
        # After the map: the length of endless data, rounded up to whole batches, would not fit an integer.
        .batch(batch_size, batch_fn=stack)
    )


def batches_in_order(source, look: Callable[..., Example], batch_size: int, host: int, hosts: int) -> Iterator[Example]:
    """Every item once, every `hosts`-th on this host; all hosts get as many batches, and fill them with empty examples."""
    for first in range(0, len(source), batch_size * hosts):
        indices = range(first + host, min(first + batch_size * hosts, len(source)), hosts)
        examples = [look(source[index]) for index in indices]
        empty = jax.tree.map(np.zeros_like, examples[0] if examples else look(source[0]))
        yield stack(examples + [empty] * (batch_size - len(examples)))
