"""Command-line words in, one checked configuration out."""

import copy
import dataclasses
import itertools
import json
from pathlib import Path
from typing import ClassVar

import absl.flags
from ml_collections import config_flags

from mmdiff.data.video_examples import DataConfig
from mmdiff.errors import UserError
from mmdiff.masking.anchors import AnchorsConfig
from mmdiff.masking.strategies import MaskingConfig, with_strategy
from mmdiff.models.reserve import ENCODERS
from mmdiff.objectives.masked_video import MaskedVideoConfig
from mmdiff.ranges import check_range
from mmdiff.training.optimizer import OptimizerConfig
from mmdiff.training.presets import PRETRAIN_PRESETS


class ConfigError(UserError):
    """A configuration names something that does not exist, or means nothing."""


@dataclasses.dataclass
class ModelConfig:
    """Which model: a checkpoint, or sizes to start from at random.

    A checkpoint knows its sizes: they are recorded, and other ones are refused.
    """

    checkpoint: str = (
        ""  # a released or continued model: msgpack, safetensors, npz, or a run's folder; "": RANDOM WEIGHTS
    )
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
        for name in ("rows", "columns"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise ValueError(f"model.{name}={getattr(self, name)} must be even: patches are pooled 2x2")
        if self.hidden_size < 64 or self.hidden_size % 64:
            raise ValueError(f"model.hidden_size={self.hidden_size} must be a multiple of 64")
        check_range(self, "model", *(f"{encoder}_layers" for encoder in ENCODERS), least=1)
        if set(self.remat) - set(ENCODERS):
            raise ValueError(f"model.remat={self.remat} is unknown; known: {', '.join(ENCODERS)}")


@dataclasses.dataclass
class TrainConfig:
    """How long, how much at once, and how often to look."""

    steps: int = 1000  # 0: as many as `epochs` take, and `warmup_epochs` instead of the optimizer's `warmup_steps`
    epochs: int = 20  # passes over the training examples
    warmup_epochs: float = 0.5
    batch_size: int = 8  # examples of one update, over all hosts and microbatches
    accumulation: int = 1  # microbatches of one update, one after another (`objective.negatives`)
    seed: int = 0
    fsdp: int = 0  # devices that share one copy of the parameters between steps; 0: all
    expected_examples: int = 0  # to train on; read by `mmdiff compile` alone, where there are no records yet
    log_every: int = 10
    evaluate_every: int = 100  # steps, 0: an epoch; a run also evaluates at its end
    save_every: int = 100  # steps, 0: an epoch
    patience: int = 2  # stop at the evaluation after this many without improvement; 0 never stops
    min_improvement: float = 1e-4  # of the validation loss

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        check_range(self, "train", "epochs", "batch_size", "accumulation", "log_every", least=1)
        check_range(self, "train", "steps", "warmup_epochs", "fsdp", "expected_examples", least=0)
        check_range(self, "train", "evaluate_every", "save_every", "patience", "min_improvement", least=0)
        check_range(self, "train", "seed", least=0, below=2**32)
        if self.batch_size % self.accumulation:
            raise ValueError(f"train.batch_size={self.batch_size} does not divide by accumulation={self.accumulation}")


def epoch_steps(train: TrainConfig, examples: int) -> int:
    """Steps in which every one of the training examples is visited."""
    return -(-examples // train.batch_size)


def in_steps(train: TrainConfig, optimizer: OptimizerConfig, examples: int) -> tuple[TrainConfig, OptimizerConfig]:
    """The same schedule with nothing left to say in epochs, for this many training examples."""
    epoch = epoch_steps(train, examples)
    if not train.steps:
        optimizer = dataclasses.replace(optimizer, warmup_steps=round(train.warmup_epochs * epoch))
    resolved = dataclasses.replace(
        train,
        steps=train.steps or train.epochs * epoch,
        evaluate_every=train.evaluate_every or epoch,
        save_every=train.save_every or epoch,
    )
    return resolved, optimizer


@dataclasses.dataclass
class PretrainConfig:
    """One run of continued pretraining."""

    presets: ClassVar[dict[str, dict[str, object]]] = PRETRAIN_PRESETS

    preset: str = "paper"  # a row of `presets`, applied before any other field of the command line
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    anchors: AnchorsConfig = dataclasses.field(default_factory=AnchorsConfig)
    objective: MaskedVideoConfig = dataclasses.field(default_factory=MaskedVideoConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def paper_pretraining(strategy: str) -> PretrainConfig:
    """The paper's continued pretraining (arXiv 2305.14577, table 4) with a masking strategy.

    The strategy is as in `with_strategy`. The batch and the warm-up are the official scripts'.
    """
    config = PretrainConfig()
    config.masking = with_strategy(config.masking, strategy)
    config.masking.ratio = 0.25
    config.optimizer.learning_rate = 5e-6
    config.train = TrainConfig(steps=0, epochs=20, warmup_epochs=0.5, batch_size=8, evaluate_every=0, patience=5)
    return config


def get_field(config, path: str):
    for name in path.split("."):
        config = getattr(config, name)
    return config


def set_field(config, path: str, value) -> None:
    *parents, name = path.split(".")
    setattr(get_field(config, ".".join(parents)) if parents else config, name, value)


def with_fields(config, fields: dict[str, object]):
    """A copy with these fields set."""
    copied = copy.deepcopy(config)
    for path, value in fields.items():
        set_field(copied, path, value)
    return copied


def apply_preset(config, name: str) -> None:
    """Sets the fields of a preset. Raises ConfigError for a name that is not among the configuration's `presets`."""
    if name not in config.presets:
        raise ConfigError(f"preset={name!r} is unknown; known: {', '.join(config.presets)}")
    config.preset = name
    for path, value in config.presets[name].items():
        set_field(config, path, value)


def parse_config(arguments: list[str], *wanted: type):
    """The configuration, one of `wanted`, of `--config FILE[:ARGUMENT] --config.section.field=value ...`.

    The file's `get_config(argument)` comes first, then the preset, then the other fields of the command line.

    Raises ConfigError for a missing, broken or other kind of file, an unknown field with those there are, or a bad value.
    """
    file = next((word.split("=", 1)[1] for word in arguments if word.startswith("--config=")), None)
    if "--config" in arguments[:-1]:
        file = arguments[arguments.index("--config") + 1]
    if not file:
        raise ConfigError("--config is missing: give a file such as configs/video_folder.py:difference")
    if not Path(file.split(":")[0]).is_file():
        raise ConfigError(f"no configuration file at {file.split(':')[0]}; the project's lie in configs/")
    try:
        plain, _, _ = _parse([f"--config={file}"])
    except Exception as error:  # noqa: BLE001  the file is the user's code
        cause = error
        # The parser puts a traceback around what the file raised. What is raised from None is what was meant.
        while behind := cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__):
            cause = behind
        said = str(cause) if isinstance(cause, UserError) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{file} cannot be used: {said}") from None
    if not isinstance(plain, wanted):
        needed = " or a ".join(kind.__name__ for kind in wanted)
        raise ConfigError(f"{file} gives a {type(plain).__name__}, and this command needs a {needed}")
    try:
        config, overrides, rest = _parse(_config_first(arguments))
    except (absl.flags.Error, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{file}: {_explain(error, arguments, plain)}") from None
    if rest:
        raise ConfigError(f"do not know what to do with {' '.join(rest)!r}")
    apply_preset(config, config.preset)
    for path, value in overrides.items():
        set_field(config, path, value)
    return config


def _config_first(arguments: list[str]) -> list[str]:
    """The same words, `--config` before its fields, as the parser wants them."""
    first, rest, words = [], [], iter(arguments)
    for word in words:
        if word == "--config":
            first += [word, *itertools.islice(words, 1)]
        else:
            (first if word.startswith("--config=") else rest).append(word)
    return first + rest


def _parse(arguments: list[str]):
    """Configuration, what the command line changed in it, and the words that are left."""
    flags = absl.flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=flags, sys_argv=["mmdiff", *arguments])
    rest = flags(["mmdiff", *arguments])[1:]
    return holder.value, config_flags.get_override_values(flags["config"]), rest


def _explain(error: Exception, arguments: list[str], config) -> str:
    """The parser's message; where a field does not exist, with those that its section has."""
    for word in arguments:
        if not word.startswith("--config."):
            continue
        section, path = config, word.split("=", 1)[0].removeprefix("--config.").split(".")
        for depth, name in enumerate(path):
            known = [field.name for field in dataclasses.fields(section)] if dataclasses.is_dataclass(section) else []
            if name not in known:
                where = ".".join(["config", *path[:depth]])
                return f"{where} has no field {name!r}; it has {', '.join(known) or 'none'}"
            section = getattr(section, name)
    return " ".join(str(error).split())


def validate(config) -> None:
    """Raises ConfigError with the first field that means nothing."""
    try:
        for section in dataclasses.fields(config):
            check = getattr(getattr(config, section.name), "validate", None)
            if check:
                check()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def with_absolute_paths(config):
    """A copy whose PATHS mean the same from every working directory."""
    sections = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    given = {path: getattr(sections.get(path.split(".")[0]), path.split(".")[1], "") for path in PATHS}
    return with_fields(config, {path: str(Path(value).resolve()) for path, value in given.items() if value})


def to_json(config) -> str:
    """A configuration as text, for the folder of its run."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


# Where inputs lie may change between two starts of a run. What they hold may not and is compared apart, or what was made of
# it is kept with the run.
PATHS = (
    "data.records",
    "data.corpus",
    "data.tokenizer",
    "model.checkpoint",
    "masking.classifier",
    "anchors.unigrams",
    "anchors.text_encoder",
)

# How the same run is computed on the devices there are, and looked at, may change, too.
MACHINE = ("train.fsdp", "train.expected_examples", "train.log_every", "model.remat", "data.threads")

MOVED = {"masking.anchors": "anchors.words"}  # fields that older versions have elsewhere


def as_loaded(path: str, given, default, loaded, checkpoint: str):
    """What is recorded of a field that the checkpoint decides: what was loaded.

    Raises ConfigError where the field was set to something else.
    """
    if given not in (default, loaded):
        raise ConfigError(
            f"{path}={given} contradicts {checkpoint}, which has {loaded}: leave {path} out, or give another checkpoint"
        )
    return loaded


def differences(stored: dict, config) -> list[str]:
    """The fields in which a stored configuration and a new one differ, as `section.field: old -> new`; not PATHS or MACHINE."""
    # A field that is younger than the stored configuration did then what its default does; one that moved, what it did.
    default, old, new = (
        _flat(tree) for tree in (json.loads(to_json(type(config)())), stored, json.loads(to_json(config)))
    )
    old = default | {MOVED.get(name, name): value for name, value in old.items()}
    return [
        f"{name}: {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and name not in (*PATHS, *MACHINE)
    ]


def _flat(tree: dict, prefix: str = "") -> dict:
    out = {}
    for name, value in tree.items():
        out |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out
