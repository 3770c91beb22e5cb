"""What is recorded is what ran: ranges of numbers, the sizes of a checkpoint, and a start at random."""

import dataclasses
import json
import math

import jax
import pytest
import tiny

from mmdiff.data.tokenizer import Tokenizer
from mmdiff.models.pretrained import save_safetensors
from mmdiff.probing.config import ProbeConfig
from mmdiff.probing.text_config import TextProbeConfig
from mmdiff.training import pretrain as pretrain_module
from mmdiff.training import runs
from mmdiff.training.config import ConfigError, ModelConfig, PretrainConfig, get_field, validate, with_fields
from mmdiff.training.pretrain import pretrain
from mmdiff.training.runs import RunError
from mmdiff.training.text_config import TextPretrainConfig, within_positions

NAN, INF = math.nan, math.inf
OPTIMIZER = {
    "optimizer.learning_rate": (0.0, -1e-4, NAN, INF),
    "optimizer.warmup_steps": (-1,),
    "optimizer.b1": (-0.1, 1.0, NAN),
    "optimizer.b2": (-0.1, 1.0),
    "optimizer.eps": (0.0, -1e-8),
    "optimizer.decay": (-0.1, NAN, INF),
    "optimizer.clip": (-0.1, NAN, INF),
}
TRAIN = {
    **{f"train.{name}": (0, -1) for name in ("epochs", "batch_size", "accumulation", "log_every")},
    **{
        f"train.{name}": (-1,)
        for name in ("steps", "fsdp", "expected_examples", "evaluate_every", "save_every", "patience")
    },
    "train.warmup_epochs": (-0.5, NAN),
    "train.min_improvement": (-1e-4, NAN, INF),
    "train.seed": (-1, 2**32),
}
HEADS = {
    **{f"probe.{name}": (0, -1) for name in ("seeds", "at_once", "epochs", "batch_size")},
    "probe.learning_rates": ((), (0.0,), (-1e-3,), (NAN,), (INF,)),
    "probe.patience": (-1,),
    "probe.decay": (-0.1, NAN, INF),
}
SIZES = {
    "model.hidden_size": (0, -64, 65),
    "model.rows": (0, -2, 5),
    "model.columns": (0, 7),
    **{f"model.{name}_layers": (0, -1) for name in ("vision", "audio", "joint", "span")},
}
VIDEO_DATA = {f"data.{name}": (0, -1) for name in ("segments", "text_length", "threads")}
TEXT_DATA = {"data.longest": (2, -1), "data.buckets": (0,), "data.threads": (0,)}
MASKING = {"masking.ratio": (0.0, 1.0, -0.1, NAN), "masking.alpha": (-0.1, 1.1, NAN), "masking.noise": (-1.0, NAN, INF)}
RANGES = {
    PretrainConfig: OPTIMIZER | TRAIN | SIZES | VIDEO_DATA | MASKING
    | {"masking.min_coverage": (-0.1, 1.1, NAN), "objective.target_momentum": (-0.1, 1.1, NAN)},
    ProbeConfig: OPTIMIZER | TRAIN | SIZES | VIDEO_DATA | HEADS | {"probe.held_out": (0.0, 1.0, NAN)},
    TextPretrainConfig: OPTIMIZER | TRAIN | TEXT_DATA | MASKING
    | {"masking.selective_threshold": (-0.1, NAN), "masking.entity_rate": (1.1, NAN), "masking.base_weight": (-1.0,),
       "objective.dropout": (-0.1, 1.0, NAN), "objective.importance_texts": (0,),
       "objective.contrast_temperature": (0.0, NAN), "objective.end_task": (-0.1, NAN), "collocations.min_count": (0,), "collocations.best": (0.0, NAN)},
    TextProbeConfig: OPTIMIZER | TRAIN | TEXT_DATA | HEADS | {"model.dropout": (-0.1, 1.0, NAN)},
}  # fmt: skip
BAD = [(kind, path, value) for kind, table in RANGES.items() for path, values in table.items() for value in values]
NEEDED = {"data.records", "data.corpus", "data.tokenizer", "model.checkpoint"}
# Numbers of which every one means something.
UNBOUNDED = {"masking.hidden_seed", "objective.first_frame_segment"}


def complete(kind: type):
    """A configuration of this kind in which nothing is missing."""
    config = kind()
    named = [path for path in NEEDED if hasattr(get_field(config, path.split(".")[0]), path.split(".")[1])]
    return with_fields(config, dict.fromkeys(named, "there"))


@pytest.mark.parametrize(("kind", "path", "value"), BAD, ids=lambda x: getattr(x, "__name__", str(x)))
def test_a_number_out_of_its_range_is_refused_by_name(kind, path, value):
    validate(complete(kind))
    with pytest.raises(ConfigError, match=path.replace(".", r"\.")) as refused:
        validate(with_fields(complete(kind), {path: value}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", RANGES)
def test_every_number_of_training_and_probing_has_a_range(kind):
    config = kind()
    sections = [getattr(config, field.name) for field in dataclasses.fields(config)]
    names = [field.name for field in dataclasses.fields(config)]
    numbers = {
        f"{name}.{field}"
        for name, section in zip(names, sections, strict=True)
        if name in ("optimizer", "train", "model", "probe", "data") and dataclasses.is_dataclass(section)
        for field, value in vars(section).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    assert numbers <= RANGES[kind].keys() | UNBOUNDED


@pytest.fixture(scope="module")
def narrow(records):
    """A configuration whose checkpoint is a model 64 wide, and which names no size."""
    config = tiny.config(records)
    _, params = runs.build_model(config.model, Tokenizer(config.data.tokenizer), jax.random.key(0))
    save_safetensors(records / "narrow.safetensors", jax.device_get(params))
    default = ModelConfig(rows=config.model.rows, columns=config.model.columns, dtype="float32")
    config.model = dataclasses.replace(default, checkpoint=str(records / "narrow.safetensors"))
    return config


@pytest.mark.parametrize(("name", "value", "has"), [("hidden_size", 128, 64), ("span_layers", 2, 1)])
def test_sizes_that_contradict_the_checkpoint_are_refused(narrow, tmp_path, name, value, has):
    wrong = with_fields(narrow, {f"model.{name}": value})
    with pytest.raises(ConfigError, match=rf"^model.{name}={value} contradicts .*narrow.*, which has {has}: leave "):
        pretrain(wrong, tmp_path / "run", progress_bar=False)
    assert not (tmp_path / "run").exists()


class Begun(Exception):
    """A run has claimed its folder, and would now train."""


@pytest.fixture
def begin(monkeypatch):
    """Pretraining up to its first step."""

    def stop(*arguments):
        raise Begun

    monkeypatch.setattr(pretrain_module, "open_position", stop)

    def begin(config, workdir):
        with pytest.raises(Begun):
            pretrain(config, workdir, progress_bar=False)

    return begin


def test_sizes_of_the_checkpoint_are_recorded_and_the_run_goes_on_with_them_or_without(narrow, tmp_path, caplog, begin):
    begin(narrow, tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["model"]
    assert (recorded["hidden_size"], recorded["vision_layers"], recorded["span_layers"]) == (64, 1, 1)
    begin(narrow, tmp_path / "run")
    begin(with_fields(narrow, {"model.hidden_size": 64}), tmp_path / "run")
    assert "RANDOM WEIGHTS" not in caplog.text
    with pytest.raises(RunError, match="holds another run"):
        pretrain(with_fields(narrow, {"optimizer.learning_rate": 0.5}), tmp_path / "run", progress_bar=False)


def test_random_weights_are_said_in_capitals(records, tmp_path, caplog, begin):
    begin(tiny.config(records), tmp_path / "run")
    assert "RANDOM WEIGHTS: model.checkpoint is empty, so that the model, 64 wide, began untrained" in caplog.text


def test_texts_are_as_long_as_the_model_has_positions_or_refused():
    assert within_positions(TextProbeConfig(), 128, "bert").data.longest == 128
    assert within_positions(TextProbeConfig(), 512, "bert").data.longest == 256
    with pytest.raises(ConfigError, match="data.longest=300 contradicts bert, which has 128"):
        within_positions(with_fields(TextProbeConfig(), {"data.longest": 300}), 128, "bert")
