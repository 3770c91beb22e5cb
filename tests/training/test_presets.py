"""Presets set what their page says."""

from pathlib import Path

import pytest

from mmdiff.training.config import PretrainConfig, apply_preset, get_field, paper_pretraining, validate
from mmdiff.training.presets import PRETRAIN_PRESETS, page
from mmdiff.training.text_config import TextPretrainConfig, paper_text_pretraining
from mmdiff.training.text_presets import TEXT_PRESETS

PAGE = Path(__file__).resolve().parents[2] / "docs/presets.md"


def test_the_page_is_what_the_code_says():
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(PretrainConfig(), TextPretrainConfig()), (
        "run `python -m mmdiff.training.presets > docs/presets.md`"
    )


@pytest.mark.parametrize("name", PRETRAIN_PRESETS)
def test_a_preset_sets_fields_that_there_are_and_that_mean_something(name):
    config = paper_pretraining("difference_face")
    config.data.records = config.data.tokenizer = "somewhere"
    apply_preset(config, name)
    validate(config)
    assert config.preset == name and config.masking.where == "face"
    for path, value in PRETRAIN_PRESETS[name].items():
        assert get_field(config, path) == value
        assert get_field(PretrainConfig(), path) != value, f"{path} is the default"


@pytest.mark.parametrize("name", TEXT_PRESETS)
def test_a_preset_for_text_sets_fields_that_there_are_and_that_mean_something(name):
    config = paper_text_pretraining("difference_centroid")
    config.data.corpus = config.model.checkpoint = config.anchors.text_encoder = "somewhere"
    apply_preset(config, name)
    validate(config)
    assert config.preset == name and config.anchors.compare == "centroid"
    for path, value in TEXT_PRESETS[name].items():
        assert get_field(config, path) == value
        assert get_field(TextPretrainConfig(), path) != value, f"{path} is the default"
