"""Boxes in one frame in, the track and the weight of every patch out."""

import numpy as np
from jaxtyping import Float, Float32, Int32


def coverage(boxes: Float[np.ndarray, "n 4"], grid: tuple[int, int], patch_size: int) -> Float[np.ndarray, "n p"]:
    """The share of each patch that each box (y0, x0, y1, x1 in pixels of the model's frame) covers."""

    def along(low, high, count):
        edge = np.arange(count) * patch_size
        shared = np.minimum(high[:, None], edge + patch_size) - np.maximum(low[:, None], edge)
        return np.clip(shared, 0, patch_size) / patch_size

    rows = along(boxes[:, 0], boxes[:, 2], grid[0])
    columns = along(boxes[:, 1], boxes[:, 3], grid[1])
    return (rows[:, :, None] * columns[:, None, :]).reshape(len(boxes), -1)


def patches_in_boxes(
    boxes: Float[np.ndarray, "n 4"],
    track: np.ndarray,
    weight: np.ndarray,
    grid: tuple[int, int],
    patch_size: int,
    min_coverage: float,
) -> tuple[Int32[np.ndarray, " p"], Float32[np.ndarray, " p"]]:
    """For each patch the track (0: none) and weight of the box that holds it.

    A box holds a patch if it covers at least `min_coverage` of it; a box too small for that holds the patch it covers
    most. Where boxes overlap, the one with the highest weight wins, then the one that covers more.
    """
    patches = grid[0] * grid[1]
    if not len(boxes):
        return np.zeros(patches, np.int32), np.zeros(patches, np.float32)
    share = coverage(boxes, grid, patch_size)
    enough = np.minimum(min_coverage, share.max(axis=1, keepdims=True))
    held = (share > 0) & (share >= enough) & (weight[:, None] > 0)
    # Coverage lies in 0..1 and can only decide between equal weights once weights are ranks.
    rank = np.unique(weight, return_inverse=True)[1][:, None] * 2 + share
    best = np.argmax(np.where(held, rank, -1), axis=0)
    any_box = held.any(axis=0)
    return (
        np.where(any_box, track[best], 0).astype(np.int32),
        np.where(any_box, weight[best], 0).astype(np.float32),
    )
