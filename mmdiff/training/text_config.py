"""What can be chosen about continued pretraining on text."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from mmdiff.data.text_batches import TextDataConfig
from mmdiff.masking.anchors import AnchorsConfig, word_anchors_config
from mmdiff.masking.collocations import CollocationsConfig
from mmdiff.masking.strategies import StrategyError
from mmdiff.masking.word_strategies import WordMaskingConfig, find
from mmdiff.objectives.masked_language import MaskedLanguageConfig
from mmdiff.training.config import TrainConfig, as_loaded, set_field, with_fields
from mmdiff.training.optimizer import OptimizerConfig
from mmdiff.training.text_presets import TEXT_METHODS, TEXT_PRESETS


@dataclasses.dataclass
class PretrainedTextsConfig(TextDataConfig):
    """Which texts to pretrain on, and how much of each is seen."""

    buckets: int = 12  # many steps are taken: padding costs more than compilations
    distinct: bool = False  # each text once, markers aside, however often the corpus has it


@dataclasses.dataclass
class TextModelConfig:
    """Which BERT or RoBERTa."""

    checkpoint: str = ""  # folder of a Hugging Face model: config.json, weights and tokenizer.json
    dtype: str = "bfloat16"  # of matrix products
    remat: bool = False  # each layer's activations are computed twice, to save memory

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if not self.checkpoint:
            raise ValueError(
                "model.checkpoint is missing: give the folder of a BERT or RoBERTa as --config.model.checkpoint"
            )
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"model.dtype={self.dtype!r} is unknown; known: bfloat16, float32")


@dataclasses.dataclass
class TextPretrainConfig:
    """One run of continued pretraining on text."""

    presets: ClassVar[dict[str, dict[str, object]]] = TEXT_PRESETS

    preset: str = "paper"  # a row of `presets`, applied before any other field of the command line
    data: PretrainedTextsConfig = dataclasses.field(default_factory=PretrainedTextsConfig)
    model: TextModelConfig = dataclasses.field(default_factory=TextModelConfig)
    masking: WordMaskingConfig = dataclasses.field(default_factory=WordMaskingConfig)
    anchors: AnchorsConfig = dataclasses.field(default_factory=word_anchors_config)
    collocations: CollocationsConfig = dataclasses.field(default_factory=CollocationsConfig)
    objective: MaskedLanguageConfig = dataclasses.field(default_factory=MaskedLanguageConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def within_positions(config, positions: int, checkpoint: str | Path):
    """The configuration of a run or a probe whose `data.longest` is no more than the checkpoint has positions.

    Raises ConfigError where it was set to more.
    """
    longest = config.data.longest
    if longest > positions:
        longest = as_loaded("data.longest", longest, TextDataConfig().longest, positions, str(checkpoint))
    return with_fields(config, {"data.longest": longest})


def paper_text_pretraining(method: str, texts: int = 0) -> TextPretrainConfig:
    """The paper's continued pretraining on text (arXiv 2305.14577, table 4) by a row of TEXT_METHODS, or another strategy.

    Learning rate 1e-4, 150 epochs and patience 20 are the paper's; an evaluation every 30 updates (the paper says epochs),
    batches of 512 texts, decay and warm-up its code's, betas RoBERTa's (arXiv 1907.11692).

    Raises StrategyError for a name, not `package.module:function`, that is neither.
    """
    if method not in TEXT_METHODS and ":" not in method:
        try:
            find(method)
        except StrategyError:
            known = ", ".join(TEXT_METHODS)
            raise StrategyError(
                f"masking.strategy={method!r} is unknown; known: {known}; your own is package.module:function"
            ) from None
    config = TextPretrainConfig()
    for path, value in TEXT_METHODS.get(method, {"masking.strategy": method}).items():
        set_field(config, path, value)
    config.optimizer = OptimizerConfig(learning_rate=1e-4, decay=0.01, decay_towards="zero")
    config.train = TrainConfig(
        steps=0, epochs=150, warmup_epochs=9.0, batch_size=512, accumulation=8, save_every=0, patience=20
    )
    config.train.expected_examples = texts
    config.train.evaluate_every = 30
    return config
