"""Batches of texts: little padding, every text once an epoch, the same on any number of hosts."""

from typing import NamedTuple

import jax
import numpy as np
import pytest

from mmdiff.data.text_batches import TextStream, bucket_lengths, text_evaluation_batches, text_training_batches


class Example(NamedTuple):
    id: np.ndarray
    tokens: np.ndarray


LENGTHS = np.random.default_rng(0).integers(4, 60, size=41).tolist()
EXAMPLES = [Example(np.uint32(i), np.full(length, i + 1)) for i, length in enumerate(LENGTHS)]
BUCKETS = bucket_lengths(LENGTHS, 4, multiple=4)


def padding(lengths, buckets) -> int:
    return sum(buckets[np.searchsorted(buckets, length)] - length for length in lengths)


def test_no_other_buckets_pad_less():
    import itertools

    ends = sorted({-(-length // 4) * 4 for length in LENGTHS})
    best = min(padding(LENGTHS, (*some, ends[-1])) for some in itertools.combinations(ends[:-1], 3))
    assert padding(LENGTHS, BUCKETS) == best
    assert len(BUCKETS) == 4 and BUCKETS[-1] == ends[-1]


@pytest.mark.parametrize("buckets", [1, 3, 100])
def test_buckets_hold_every_text(buckets):
    found = bucket_lengths(LENGTHS, buckets)
    assert list(found) == sorted(set(found)) and len(found) <= buckets
    assert max(LENGTHS) <= found[-1] < max(LENGTHS) + 8
    assert all(length % 8 == 0 for length in found)


def test_every_text_comes_once_an_epoch_and_the_order_differs():
    stream = TextStream(EXAMPLES, BUCKETS, 4, seed=3)
    assert stream.batches_per_epoch == 11
    epochs = [[int(stream[i].id) for i in range(44 * epoch, 44 * epoch + 44)] for epoch in range(2)]
    for ids in epochs:
        assert set(ids) == set(range(41))  # three more fill the last batch
    assert epochs[0] != epochs[1]


def test_texts_of_a_batch_are_of_like_length_and_padded_alike():
    stream = TextStream(EXAMPLES, BUCKETS, 4, seed=3)
    real = total = 0
    for batch in range(stream.batches_per_epoch):
        lengths = {len(stream[4 * batch + i].tokens) for i in range(4)}
        assert len(lengths) == 1 and lengths < set(BUCKETS)
        for i in range(4):
            tokens = stream[4 * batch + i].tokens
            length = LENGTHS[int(stream[4 * batch + i].id)]
            assert (tokens[:length] > 0).all() and (tokens[length:] == 0).all()
            real, total = real + length, total + len(tokens)
    plain = sum(len(EXAMPLES) * [max(LENGTHS)])
    assert total - real < (plain - sum(LENGTHS)) / 2


def test_two_hosts_read_what_one_reads():
    def take(host: int, hosts: int, size: int):
        batches = text_training_batches(EXAMPLES, BUCKETS, size, 7, 2, host, hosts)
        batches.go_to(2)
        found = [next(batches) for _ in range(12)]
        batches.close()
        return found

    whole, halves = take(0, 1, 4), [take(host, 2, 2) for host in range(2)]
    for i, batch in enumerate(whole):
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), halves[0][i], halves[1][i])
        jax.tree.map(np.testing.assert_array_equal, joined, batch)


def test_fewer_texts_than_a_batch_repeat():
    stream = TextStream(EXAMPLES[:3], BUCKETS, 8, seed=0)
    assert stream.batches_per_epoch == 1
    assert {int(stream[i].id) for i in range(8)} == {0, 1, 2}


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_sees_every_text_once(hosts):
    seen = []
    batches = [list(text_evaluation_batches(EXAMPLES, BUCKETS, 4, host, hosts)) for host in range(hosts)]
    for same in zip(*batches, strict=True):
        assert len({batch.tokens.shape for batch in same}) == 1
    for batch in (batch for of_host in batches for batch in of_host):
        real = (batch.tokens > 0).any(axis=1)
        seen += batch.id[real].tolist()
    assert sorted(seen) == list(range(41))


def test_evaluation_takes_texts_longer_than_those_of_training():
    (batch,) = text_evaluation_batches(EXAMPLES[:2], (4,), 2, 0, 1)
    assert batch.tokens.shape == (2, max(LENGTHS[:2]))
