"""A file's bytes in, the same with something broken out: what disks, networks and cut-off downloads do to videos."""

import numpy as np

HEADER = 4096  # bytes in which most containers say what they hold


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """The name of what was done, and the bytes that came of it. `other` is a file to splice from."""
    name = str(rng.choice(sorted(MUTATIONS)))
    return name, bytes(MUTATIONS[name](bytearray(data), other, rng))


def _flip_bits(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(len(data), size=int(10 ** rng.uniform(0, 3))):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _cut(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def _lose_the_beginning(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[int(rng.integers(1, len(data))) :]


def _splice(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(len(data)))] + other[int(rng.integers(len(other))) :]


def _zero_a_block(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _block(data, rng)
    data[start:end] = bytes(end - start)
    return data


def _randomize_a_block(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _block(data, rng)
    data[start:end] = rng.bytes(end - start)
    return data


def _double_a_block(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _block(data, rng)
    return data[:end] + data[start:]


def _drop_a_block(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    start, end = _block(data, rng)
    return data[:start] + data[end:]


def _swap_blocks(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    first, second, third = sorted(int(at) for at in rng.integers(len(data), size=3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _change_the_header(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(min(HEADER, len(data)), size=int(rng.integers(1, 9))):
        data[at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    return data


def _change_the_end(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """The index of an mp4 stands there."""
    for at in rng.integers(max(0, len(data) - 2 * HEADER), len(data), size=int(rng.integers(1, 9))):
        data[at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    return data


def _change_four_bytes(data: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    """Lengths, counts and times are numbers of four bytes."""
    near_end = rng.integers(2)
    at = int(rng.integers(max(0, len(data) - 2 * HEADER), len(data)) if near_end else rng.integers(HEADER))
    data[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.integers(2**32)])).to_bytes(4, "big")
    return data


def _block(data: bytearray, rng: np.random.Generator) -> tuple[int, int]:
    """Where a block of up to a quarter of the file begins and ends."""
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + int(rng.integers(1, len(data) // 4 + 2)))


MUTATIONS = {
    "bits flipped": _flip_bits,
    "cut": _cut,
    "beginning lost": _lose_the_beginning,
    "spliced from another": _splice,
    "block zeroed": _zero_a_block,
    "block of noise": _randomize_a_block,
    "block doubled": _double_a_block,
    "block lost": _drop_a_block,
    "blocks swapped": _swap_blocks,
    "header changed": _change_the_header,
    "end changed": _change_the_end,
    "number changed": _change_four_bytes,
}
