"""How much of the budget goes into boxes, said before the first step."""

import logging

import jax
import numpy as np
import pytest
import tiny

from mmdiff.data.records import read_split
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import BoxRule, video_example
from mmdiff.masking.strategies import MaskingConfig, mask_patches, patch_units
from mmdiff.models.reserve import ReserveConfig
from mmdiff.objectives.masked_video import flat_patches
from mmdiff.training.box_budget import BoxBudget, box_budget, window_budget

MODEL = ReserveConfig(image_grid=(4, 6))


def rule(where="body") -> BoxRule:
    return BoxRule(lambda label, part: float(label == "person"), where, 0.25, "where")


@pytest.mark.parametrize("unit", ["patch", "pooled"])
@pytest.mark.parametrize("where", ["body", "face"])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_it_is_what_the_strategy_takes_from_boxes(records, unit, where, alpha):
    """A body is more than the budget, a face is less; at most alpha of the budget is taken by choice."""
    masking = MaskingConfig(unit=unit, where=where, alpha=alpha, noise=0.0)
    record = tiny.record(1)
    config = tiny.config(records)
    tokenizer = Tokenizer(config.data.tokenizer)
    example = video_example(record, 0, config.data, MODEL.image_grid, MODEL.patch_size, rule(where), tokenizer, None)
    batch = jax.tree.map(lambda x: np.asarray(x)[None], example)
    patches = jax.tree.map(lambda x: x[0], flat_patches(batch, MODEL.image_grid, None))
    units = patch_units(unit, tiny.SEGMENTS, MODEL.image_grid, MODEL.pooling)
    hidden = np.asarray(mask_patches(jax.random.key(0), patches, masking, units).hidden)[units].all(axis=1)
    wanted = (np.asarray(patches.weight) > 0)[units].any(axis=1)
    taken, budget = window_budget(record, 0, tiny.SEGMENTS, masking, rule(where), MODEL)
    assert budget == hidden.sum()
    inside = (hidden & wanted).sum()
    # What is not taken by choice is drawn from all that is left, other people included.
    assert taken == inside if alpha == 1 else taken <= inside
    assert taken == min(wanted.sum(), int(alpha * budget))


def test_windows_without_boxes_are_counted_and_the_share_falls(tmp_path, caplog):
    kept = [tiny.record(i, boxes=i < 1) for i in range(4)]
    source = read_split(tiny.write_dataset(tmp_path, kept, []), "train")
    found = box_budget(source, tiny.SEGMENTS, MaskingConfig(), rule(), MODEL)
    assert (found.share, found.windows, found.without) == (0.25, 4, 3)
    caplog.set_level(logging.INFO, logger="mmdiff")
    found.tell("difference")
    assert "only 25% of what difference hides lies in boxes" in caplog.text and "view boxes" in caplog.text
    assert caplog.records[-1].levelname == "WARNING"
    BoxBudget(0.5, 4, 0).tell("difference")
    assert caplog.records[-1].levelname == "INFO"
