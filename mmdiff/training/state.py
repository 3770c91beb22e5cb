"""Everything that a training step changes."""

from typing import NamedTuple

import optax
from jaxtyping import Array, Bool, Int


class TrainState(NamedTuple):
    """`finite` turns false where a loss or gradient is no number; from then on nothing else changes."""

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState
    finite: Bool[Array, ""] | bool = True
