"""What can be chosen about a probe."""

import dataclasses
from typing import ClassVar

from mmdiff.data.video_examples import DataConfig
from mmdiff.objectives.question_answering import QuestionConfig
from mmdiff.probing.linear_probe import LinearProbeConfig
from mmdiff.training.config import ModelConfig, TrainConfig
from mmdiff.training.optimizer import OptimizerConfig

MODES = ("linear", "finetune")

# What a preset sets; everything else keeps its default, which is what the paper says.
PROBE_PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # The "linear probe" of the official code, which trains every parameter from its second step on. How many epochs it
    # takes depends on the dataset: configs/probe_*.py:official_code.
    "official_code": {
        "mode": "finetune",
        "data.clip_question_span": False,
        "questions.attend_to_padding": True,
        "questions.fixed_projection": True,
        "optimizer.state": "compact",
    },
}


def paper_finetuning() -> TrainConfig:
    """The paper's table 4, evaluated every epoch; the batch and the warm-up are the official scripts'."""
    # One question more is more than this; the rounding of a mean over batches is less.
    return TrainConfig(steps=0, epochs=20, evaluate_every=0, save_every=1000, patience=5, min_improvement=1e-6)


@dataclasses.dataclass
class ProbeConfig:
    """One probe. `data` and `model` are read for a checkpoint that is a file; a run's folder knows its own.

    `probe` says how linear heads are trained, and for how many seeds in either mode; `optimizer` and `train` say how
    everything is finetuned.
    """

    presets: ClassVar[dict[str, dict[str, object]]] = PROBE_PRESETS
    preset: str = "paper"  # a row of `presets`, applied before any other field of the command line
    mode: str = "linear"  # frozen encoders and linear heads, or `finetune`: every weight
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    probe: LinearProbeConfig = dataclasses.field(default_factory=LinearProbeConfig)
    questions: QuestionConfig = dataclasses.field(default_factory=QuestionConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=paper_finetuning)


def probing(argument: str, official_epochs: int) -> ProbeConfig:
    """`linear`, `finetune`, or `official_code` with as many epochs as its scripts ask for.

    Raises ValueError for another argument.
    """
    if argument not in (*MODES, "official_code"):
        raise ValueError(f"{argument!r} is unknown; known: {', '.join(MODES)}, official_code")
    config = ProbeConfig()
    if argument == "official_code":
        config.preset, config.train.epochs = argument, official_epochs
    else:
        config.mode = argument
    return config
