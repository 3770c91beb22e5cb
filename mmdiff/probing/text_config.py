"""What can be chosen about a probe of a text model."""

import dataclasses
import math
from typing import ClassVar

from mmdiff.data.text_batches import TextDataConfig
from mmdiff.data.text_scores import SCORES
from mmdiff.errors import UserError
from mmdiff.probing.config import MODES
from mmdiff.ranges import check_range
from mmdiff.training.config import TrainConfig
from mmdiff.training.optimizer import OptimizerConfig

POOLS = ("mean", "first")

# What a preset sets; everything else keeps its default.
TEXT_PROBE_PRESETS: dict[str, dict[str, object]] = {
    # The classifier of Don't Stop Pretraining (arXiv 2004.10964), from which the paper has its text tasks.
    "standard": {},
    # The paper's table 4 and its code: at a twentieth of the usual learning rate a fresh classifier learns nothing but the
    # commonest label. Theirs was trained before, by the end task's loss in continued pretraining (objective.end_task).
    "paper": {
        "mode": "finetune",
        "model.head": "trained",
        "optimizer.learning_rate": 1e-6,
        "optimizer.clip": 1.0,
        "train.epochs": 10,
        "train.patience": 3,
    },
}


@dataclasses.dataclass
class TextHeadsConfig:
    """How linear heads are trained on what a frozen encoder says, and how many seeds there are in either mode.

    Epoch and learning rate are chosen on the validation split; the test split is only scored.
    """

    metric: str = ""  # what is chosen by and marked: a row of SCORES; "": macro F1 of classes, micro F1 of entities
    seeds: int = 5
    pool: str = "mean"  # of a text's tokens is its vector, or its first token's; of a word it is its first token's
    standardize: bool = True  # each feature has mean 0 and deviation 1 over the training units
    at_once: int = 32  # texts that one device encodes at a time
    epochs: int = 40  # at most
    batch_size: int = 64  # texts, or words
    learning_rates: tuple[float, ...] = (1e-4, 1e-3, 1e-2)  # the one with the best mean over seeds is reported
    patience: int = 10  # stop after the epoch that is this many + 1 in a row without improvement; 0 never stops
    decay: float = 0.01
    validation: str = "all"  # texts that epoch and learning rate are chosen by, or those "unseen" in training

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if self.metric not in ("", *SCORES):
            raise ValueError(f"probe.metric={self.metric!r} is unknown; known: {', '.join(SCORES)}")
        if self.pool not in POOLS:
            raise ValueError(f"probe.pool={self.pool!r} is unknown; known: {', '.join(POOLS)}")
        if self.validation not in ("all", "unseen"):
            raise ValueError(f"probe.validation={self.validation!r} is unknown; known: all, unseen")
        check_range(self, "probe", "seeds", "at_once", "epochs", "batch_size", least=1)
        check_range(self, "probe", "patience", "decay", least=0)
        numbers = [rate for rate in self.learning_rates if isinstance(rate, int | float) and 0 < rate < math.inf]
        if not numbers or len(numbers) < len(self.learning_rates):
            raise ValueError(f"probe.learning_rates={self.learning_rates} must be positive numbers, at least one")

    def metric_of(self, kind: str) -> str:
        """The score that decides, for a corpus of this kind."""
        return self.metric or ("micro_f1" if kind == "entities" else "macro_f1")


@dataclasses.dataclass
class ProbedModelConfig:
    """How the model that is probed computes; which one it is, `--checkpoint` says."""

    dtype: str = "float32"  # of matrix products
    remat: bool = False  # each layer's activations are computed twice, to save memory
    dropout: float = 0.1  # while finetuning
    head: str = (
        "fresh"  # that finetuning begins with: drawn, or the classifier "trained" by a run with objective.end_task
    )

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"model.dtype={self.dtype!r} is unknown; known: bfloat16, float32")
        if self.head not in ("fresh", "trained"):
            raise ValueError(f"model.head={self.head!r} is unknown; known: fresh, trained")
        check_range(self, "model", "dropout", least=0, below=1)


def standard_finetuning() -> TrainConfig:
    """Ten epochs of batches of 16, evaluated after each, patience 3, as Don't Stop Pretraining and the paper have it."""
    return TrainConfig(
        steps=0, epochs=10, warmup_epochs=0.6, batch_size=16, evaluate_every=0, save_every=0, patience=3,
        min_improvement=1e-6,
    )  # fmt: skip


@dataclasses.dataclass
class TextProbeConfig:
    """One probe of a text model. `optimizer` and `train` say how all of it is finetuned."""

    presets: ClassVar[dict[str, dict[str, object]]] = TEXT_PROBE_PRESETS

    preset: str = "standard"  # a row of `presets`, applied before any other field of the command line
    mode: str = "linear"  # a frozen encoder and linear heads, or `finetune`: every weight
    data: TextDataConfig = dataclasses.field(default_factory=TextDataConfig)
    model: ProbedModelConfig = dataclasses.field(default_factory=ProbedModelConfig)
    probe: TextHeadsConfig = dataclasses.field(default_factory=TextHeadsConfig)
    optimizer: OptimizerConfig = dataclasses.field(
        default_factory=lambda: OptimizerConfig(learning_rate=2e-5, decay=0.1, decay_towards="zero")
    )
    train: TrainConfig = dataclasses.field(default_factory=standard_finetuning)


def text_probing(argument: str, metric: str = "") -> TextProbeConfig:
    """`linear`, `finetune`, or the preset `paper`, chosen and reported by a metric.

    Raises UserError for another argument.
    """
    if argument not in (*MODES, "paper"):
        raise UserError(f"{argument!r} is unknown; known: {', '.join(MODES)}, paper")
    config = TextProbeConfig()
    config.probe.metric = metric
    if argument == "paper":
        config.preset = argument
    else:
        config.mode = argument
    return config
