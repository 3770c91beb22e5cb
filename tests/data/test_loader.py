"""The order of examples: one for any number of hosts, found again at any batch."""

import numpy as np
import pytest

from mmdiff.data.loader import Batches, batches_in_order, shuffled_batches

ITEMS, BATCH = 12, 8  # an epoch ends inside a batch


def open_batches(host: int, hosts: int, seed: int = 3) -> Batches:
    def visit(item: int, rng: np.random.Generator) -> np.ndarray:
        return np.array([item, rng.integers(2**30)])

    return shuffled_batches(list(range(ITEMS)), visit, BATCH // hosts, seed, 2, host, hosts)


def take(count: int, host: int = 0, hosts: int = 1, start: int = 0, seed: int = 3) -> list[np.ndarray]:
    batches = open_batches(host, hosts, seed)
    batches.go_to(start)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_together_read_the_batches_of_one(hosts):
    together = zip(*(take(6, host, hosts) for host in range(hosts)), strict=True)
    np.testing.assert_array_equal([np.concatenate(parts) for parts in together], take(6))


@pytest.mark.parametrize("hosts", [1, 2])
def test_batches_found_again_are_those_that_were_missed(hosts):
    np.testing.assert_array_equal(take(3, 0, hosts, start=4), take(7, 0, hosts)[4:])


def test_going_back_after_reading_ahead_gives_the_same():
    batches = open_batches(0, 1)
    before = [next(batches) for _ in range(3)]
    batches.go_to(0)
    np.testing.assert_array_equal([next(batches) for _ in range(3)], before)
    batches.close()


def test_every_epoch_has_each_item_once_in_an_order_of_its_own():
    seen = np.concatenate(take(9))[:, 0].reshape(6, ITEMS)
    assert all(sorted(epoch) == list(range(ITEMS)) for epoch in seen)
    assert len({tuple(epoch) for epoch in seen}) == 6
    assert (np.concatenate(take(9, seed=4))[:, 0] != seen.ravel()).any()


def test_runs_begun_before_hosts_were_one_order_keep_theirs():
    # What the loader gave on one host while its position was Grain's: the first batch with seed 3.
    assert take(1)[0].tolist() == [
        [4, 200122352], [6, 201599254], [9, 827418617], [7, 515505729],
        [5, 899753921], [3, 728428531], [1, 778841287], [11, 153989542],
    ]  # fmt: skip


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_in_order_hosts_together_read_every_item_once(hosts, batch_size):
    items = list(range(1, 8))
    shares = [list(batches_in_order(items, np.asarray, batch_size, host, hosts)) for host in range(hosts)]
    rows = np.concatenate([part for parts in zip(*shares, strict=True) for part in parts])
    np.testing.assert_array_equal(rows[: len(items)], items)
    assert not rows[len(items) :].any() and len(rows) < len(items) + batch_size * hosts
