"""Command-line words in, one checked configuration out."""

import dataclasses
import json
import re
from pathlib import Path

import absl.flags
from ml_collections import config_flags

from mmdiff.data.video_examples import DataConfig
from mmdiff.errors import UserError
from mmdiff.masking.strategies import MaskingConfig
from mmdiff.models.reserve import ENCODERS
from mmdiff.objectives.masked_video import MaskedVideoConfig
from mmdiff.training.optimizer import OptimizerConfig


class ConfigError(UserError):
    """A configuration names something that does not exist, or means nothing."""


@dataclasses.dataclass
class ModelConfig:
    """Which model: a checkpoint, or sizes to start from at random. Sizes are not read where there is a checkpoint."""

    checkpoint: str = ""  # a released or continued model: msgpack, safetensors, npz, or the folder of a run
    rows: int = 12  # of 16x16 patches in a frame
    columns: int = 24
    dtype: str = "bfloat16"  # of matrix products
    remat: tuple[str, ...] = ()  # encoders that recompute activations: vision, audio, joint, span
    hidden_size: int = 768
    vision_layers: int = 12
    audio_layers: int = 12
    joint_layers: int = 12
    span_layers: int = 4

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"model.dtype={self.dtype!r} is unknown; known: bfloat16, float32")
        if set(self.remat) - set(ENCODERS):
            raise ValueError(f"model.remat={self.remat} is unknown; known: {', '.join(ENCODERS)}")


@dataclasses.dataclass
class TrainConfig:
    """How long, how much at once, and how often to look."""

    steps: int = 1000
    batch_size: int = 8  # examples of one update, over all hosts and microbatches
    accumulation: int = 1  # microbatches of one update; each contrasts only its own examples
    seed: int = 0
    fsdp: int = 1  # devices that share one copy of the parameters and the optimizer's state
    log_every: int = 10
    evaluate_every: int = 100  # steps; a run also evaluates at its end
    save_every: int = 100
    patience: int = 2  # stop at the evaluation after this many without improvement; 0 never stops
    min_improvement: float = 1e-4  # of the validation loss

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        for name in ("steps", "batch_size", "accumulation", "fsdp", "log_every", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}={getattr(self, name)} must be at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(f"train.batch_size={self.batch_size} does not divide by accumulation={self.accumulation}")


@dataclasses.dataclass
class PretrainConfig:
    """One run of continued pretraining."""

    preset: str = "paper"  # a row of PRESETS, applied before any other field of the command line
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    objective: MaskedVideoConfig = dataclasses.field(default_factory=MaskedVideoConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


# What a preset sets; everything else keeps its default, which is what the paper says.
PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    "official_code": {
        "masking.min_coverage": 0.0,
        "masking.hidden_values": "constant",
        "masking.mask_padding": True,
        "masking.fallback_without": "body",
        "masking.drop_by_rounding": True,
        "objective.empty_rows_count": True,
        "objective.round_numerator": True,
        "objective.first_frame_segment": 0,
        "objective.attend_to_padding": True,
        "optimizer.state": "compact",
        "data.crop_boxes_with_frame": False,
        "data.include_answers": True,
    },
}


def get_field(config, path: str):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def set_field(config, path: str, value) -> None:
    *parents, name = path.split(".")
    setattr(get_field(config, ".".join(parents)) if parents else config, name, value)


def apply_preset(config, name: str) -> None:
    """Sets the fields of a preset. Raises ConfigError for a name that is not in PRESETS."""
    if name not in PRESETS:
        raise ConfigError(f"preset={name!r} is unknown; known: {', '.join(PRESETS)}")
    config.preset = name
    for path, value in PRESETS[name].items():
        set_field(config, path, value)


def parse_config(arguments: list[str]):
    """The configuration of `--config FILE[:ARGUMENT] --config.section.field=value ...`.

    The file's `get_config(argument)` comes first, then the preset, then the other fields of the command line.

    Raises ConfigError for a missing file, an unknown field with those it could have meant, or a bad value.
    """
    flags = absl.flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=flags, sys_argv=["mmdiff", *arguments])
    file = next((word.split("=", 1)[1] for word in arguments if word.startswith("--config=")), None)
    if "--config" in arguments[:-1]:
        file = arguments[arguments.index("--config") + 1]
    if not file:
        raise ConfigError("--config is missing: give a file such as configs/video_folder.py:difference")
    if not Path(file.split(":")[0]).is_file():
        raise ConfigError(f"no configuration file at {file.split(':')[0]}; the project's lie in configs/")
    try:
        rest = flags(["mmdiff", *arguments])[1:]
        config = holder.value
    except absl.flags.Error as error:
        raise ConfigError(_explain(error, file)) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(_explain(error, file)) from None
    if rest:
        raise ConfigError(f"do not know what to do with {' '.join(rest)!r}")
    if hasattr(config, "preset"):
        overrides = config_flags.get_override_values(flags["config"])
        if config.preset != type(config)().preset or "preset" in overrides:
            apply_preset(config, config.preset)
            for path, value in overrides.items():
                set_field(config, path, value)
    return config


def _explain(error: Exception, file: str) -> str:
    """The parser's message; where a field is unknown, with the fields that its section has."""
    message = " ".join(str(error).split())
    unknown = re.search(r"Field (\w+) not found on dataclass <class '[\w.]*?(\w+)'>", message)
    if not unknown:
        return f"{file}: {message}"
    field, section = unknown.groups()
    classes = [PretrainConfig, DataConfig, ModelConfig, MaskingConfig, MaskedVideoConfig, OptimizerConfig, TrainConfig]
    known = {cls.__name__: [f.name for f in dataclasses.fields(cls)] for cls in classes}
    return f"{file}: {section} has no field {field!r}; it has {', '.join(known.get(section, []))}"


def validate(config) -> None:
    """Raises ConfigError with the first field that means nothing."""
    try:
        for section in dataclasses.fields(config):
            check = getattr(getattr(config, section.name), "validate", None)
            if check:
                check()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def to_json(config) -> str:
    """A configuration as text, for the folder of its run."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def differences(stored: dict, config) -> list[str]:
    """The fields in which a stored configuration and a new one differ, as `section.field: old -> new`."""
    old, new = (_flat(tree) for tree in (stored, json.loads(to_json(config))))
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name)
    ]


def _flat(tree: dict, prefix: str = "") -> dict:
    out = {}
    for name, value in tree.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out
