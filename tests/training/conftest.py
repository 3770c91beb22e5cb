"""What tests of training start from: records of a few clips, and everything that one step needs."""

import jax
import pytest
import tiny

from mmdiff.data.loader import training_batches
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.masked_video import MaskedVideo
from mmdiff.training import runs
from mmdiff.training.pretrain import example_maker


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    train = [tiny.record(i, boxes=i % 4 > 0, audio=i % 3 > 0, similarity=True) for i in range(12)]
    validation = [tiny.record(i) for i in range(12, 17)]
    return tiny.write_dataset(tmp_path_factory.mktemp("records"), train, validation)


@pytest.fixture(scope="module")
def parts(records):
    """Configuration, model, objective and one batch of eight."""
    config = tiny.config(records)
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
    make = example_maker(config.data, config.masking, lambda label, part: 1.0, sizes, tokenizer)
    iterator = training_batches(str(records), make, 8, 0, 1, 0, 1)
    batch = next(iterator)
    iterator.close()
    return config, params, MaskedVideo(MerlotReserve(sizes), config.masking, config.objective), batch
