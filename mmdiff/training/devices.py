"""The name of a device in, what it could do at best out."""

from typing import NamedTuple

from mmdiff.errors import UserError


class TopologyError(UserError):
    """A slice of accelerators that does not exist here, or nothing that could compile for it."""


class Chip(NamedTuple):
    """One chip, and what falls to each device on it."""

    devices: int  # that JAX runs on it: the two cores of a TPU v2 or v3 are a device each
    tflops: float  # dense bfloat16, 10^12 a second, as its vendor states
    gb_per_second: float  # of its own memory, 10^9 bytes
    memory_gib: float  # that programs may use

    @property
    def flops(self) -> float:
        """A second, of one device."""
        return self.tflops * 1e12 / self.devices

    @property
    def bandwidth(self) -> float:
        """Bytes a second, of one device."""
        return self.gb_per_second * 1e9 / self.devices

    @property
    def memory(self) -> float:
        """Bytes, of one device."""
        return self.memory_gib * 2**30 / self.devices


# By what JAX calls their devices, or begins to. Memory of v2 as the compiler states it, of others as sold.
CHIPS = {
    "TPU v2": Chip(2, 45, 700, 14.96),
    "TPU v3": Chip(2, 123, 900, 32),
    "TPU v4": Chip(1, 275, 1228, 32),
    "TPU v5 lite": Chip(1, 197, 819, 16),
    "TPU v5e": Chip(1, 197, 819, 16),
    "TPU v5": Chip(1, 459, 2765, 95),
    "TPU v6 lite": Chip(1, 918, 1640, 32),
    "TPU v6e": Chip(1, 918, 1640, 32),
    "NVIDIA A100": Chip(1, 312, 2039, 80),
    "NVIDIA H100": Chip(1, 989, 3350, 80),
    "NVIDIA H200": Chip(1, 989, 4800, 141),
}

# What Google Cloud calls a slice, and what the compiler does; a type's number counts cores up to v4 and v5p, then chips.
SLICES = {
    "v2-8": "v2:2x2",
    "v2-32": "v2:4x4",
    "v3-8": "v3:2x2",
    "v3-32": "v3:4x4",
    "v4-8": "v4:2x2x1",
    "v4-16": "v4:2x2x2",
    "v4-32": "v4:2x2x4",
    "v5e-8": "v5e:2x4",
    "v5e-16": "v5e:4x4",
    "v5p-8": "v5p:2x2x1",
    "v6e-8": "v6e:2x4",
    "v6e-16": "v6e:4x4",
}


def chip(kind: str) -> Chip | None:
    """What is known of the chip that a kind of device is on, if anything."""
    found = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(found, key=len)] if found else None


def slice_shape(name: str) -> str:
    """What the compiler calls a slice: of `v2-8` and of `v2:2x2` the same. Raises TopologyError for neither."""
    name = name.replace("v5litepod-", "v5e-", 1)  # gcloud's word
    if name not in SLICES and ":" not in name:
        raise TopologyError(
            f"no slice is called {name!r}; known: {', '.join(SLICES)}, and shapes such as {', '.join(SLICES.values())}"
        )
    return SLICES.get(name, name)
