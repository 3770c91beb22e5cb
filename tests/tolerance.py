"""How near is equal."""

import numpy as np


def close(actual, expected, rtol=1e-4, atol=2e-5) -> None:
    """Within the tolerance that the goldens' README states for outputs."""
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)
