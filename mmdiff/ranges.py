"""Checks of the ranges of a configuration's numbers."""

import math
from numbers import Real


def check_range(
    config,
    section: str,
    *names: str,
    least: Real = -math.inf,
    above: Real = -math.inf,
    below: Real = math.inf,
) -> None:
    """Raises ValueError for the first field that is not at least `least`, above `above` and below `below`, or no number."""
    bounds = {"at least {:g}": least, "above {:g}": above, "below {:g}": below}
    wanted = " and ".join(text.format(bound) for text, bound in bounds.items() if math.isfinite(bound))
    for name in names:
        value = getattr(config, name)
        if not (math.isfinite(value) and least <= value and above < value < below):
            raise ValueError(f"{section}.{name}={value} must be {wanted or 'a finite number'}")
