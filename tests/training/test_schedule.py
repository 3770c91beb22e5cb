"""Epochs become steps, presets and the command line win in their order, and every configuration file gives a valid one."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from mmdiff.probing.config import ProbeConfig
from mmdiff.training.config import (
    ConfigError,
    PretrainConfig,
    TrainConfig,
    apply_preset,
    differences,
    in_steps,
    parse_config,
    to_json,
    validate,
)
from mmdiff.training.optimizer import OptimizerConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DATASETS = ("tvqa", "social_iq", "social_iq2", "video_folder")


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_epochs_become_steps_and_steps_win():
    by_epoch = TrainConfig(steps=0, epochs=20, warmup_epochs=0.5, batch_size=8, evaluate_every=0, save_every=0)
    train, optimizer = in_steps(by_epoch, OptimizerConfig(warmup_steps=7), 17_435)
    assert (train.steps, train.evaluate_every, train.save_every) == (20 * 2180, 2180, 2180)
    assert optimizer.warmup_steps == 1090
    given = dataclasses.replace(by_epoch, steps=50, evaluate_every=10)
    train, optimizer = in_steps(given, OptimizerConfig(warmup_steps=7), 17_435)
    assert (train.steps, train.evaluate_every, train.save_every, optimizer.warmup_steps) == (50, 10, 2180, 7)


def test_a_field_younger_than_a_run_is_no_difference():
    config = PretrainConfig()
    stored = json.loads(to_json(config))
    del stored["train"]["epochs"]
    assert differences(stored, config) == []
    config.train.epochs = 3
    assert differences(stored, config) == ["train.epochs: 20 -> 3"]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(
    "strategy", ["random", "difference", "difference_body", "difference_face", "attn", "mst", "clip"]
)
def test_pretraining_is_the_papers_table_4(dataset, strategy):
    config = load(dataset).get_config(strategy)
    config.data.records = config.data.tokenizer = "there"
    validate(config)
    name, _, where = strategy.partition("_")
    assert (config.masking.strategy, config.masking.where) == (name, where or "body")
    assert (config.optimizer.learning_rate, config.masking.ratio) == (5e-6, 0.25)
    assert (config.train.steps, config.train.epochs, config.train.evaluate_every, config.train.patience) == (
        0,
        20,
        0,
        5,
    )


@pytest.mark.parametrize("dataset, epochs", list(zip(DATASETS, (3, 20, 20, 20), strict=True)))
def test_probes_are_linear_finetuned_or_the_official_codes(dataset, epochs):
    file = CONFIGS / f"probe_{dataset}.py"
    linear = parse_config([f"--config={file}"], ProbeConfig)
    assert linear.mode == "linear" and linear.probe.select_on == "validation" and linear.probe.patience == 5
    finetuned = parse_config([f"--config={file}:finetune"], ProbeConfig)
    assert (finetuned.mode, finetuned.train.epochs, finetuned.train.patience) == ("finetune", 20, 5)
    assert (finetuned.optimizer.learning_rate, finetuned.optimizer.decay, finetuned.probe.seeds) == (5e-6, 0.1, 5)
    official = parse_config([f"--config={file}:official_code", "--config.train.batch_size=16"], ProbeConfig)
    assert (official.mode, official.train.epochs, official.train.batch_size) == ("finetune", epochs, 16)
    assert official.optimizer.state == "compact" and official.questions.fixed_projection
    with pytest.raises(ConfigError, match="known: linear, finetune, official_code"):
        parse_config([f"--config={file}:mine"], ProbeConfig)


def test_a_learning_rate_grid_can_be_typed():
    words = [f"--config={CONFIGS / 'probe_tvqa.py'}", "--config.probe.learning_rates=0.5,1e-2"]
    assert parse_config(words, ProbeConfig).probe.learning_rates == (0.5, 0.01)


def test_presets_are_those_of_their_configuration():
    with pytest.raises(ConfigError, match="known: paper, official_code"):
        apply_preset(ProbeConfig(), "mine")
    config = PretrainConfig()
    apply_preset(config, "official_code")
    assert config.optimizer.state == "compact" and not config.data.clip_question_span


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_a_schedule_without_length_is_refused(name):
    config = ProbeConfig()
    setattr(config.train, name, 0)
    config.data.records = config.data.tokenizer = "there"
    with pytest.raises(ConfigError, match=f"train.{name}=0 must be at least 1"):
        validate(config)
