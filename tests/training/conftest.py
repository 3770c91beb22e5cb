"""What tests of training start from: records of a few clips, and everything that one step needs."""

import pytest
import tiny

from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.masked_video import MaskedVideo


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    train = [tiny.record(i, boxes=i % 4 > 0, audio=i % 3 > 0, similarity=True) for i in range(12)]
    validation = [tiny.record(i) for i in range(12, 17)]
    return tiny.write_dataset(tmp_path_factory.mktemp("records"), train, validation)


@pytest.fixture(scope="module")
def parts(records):
    """Configuration, model, objective and one batch of eight."""
    config = tiny.config(records)
    sizes, params, batch = tiny.first_batch(config, 8)
    return config, params, MaskedVideo(MerlotReserve(sizes), config.masking, config.objective), batch
