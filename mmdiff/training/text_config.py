"""What can be chosen about continued pretraining on text."""

import dataclasses
from typing import ClassVar

from mmdiff.masking.anchors import AnchorsConfig, word_anchors_config
from mmdiff.masking.collocations import CollocationsConfig
from mmdiff.masking.word_strategies import WordMaskingConfig
from mmdiff.objectives.masked_language import MaskedLanguageConfig
from mmdiff.training.config import TrainConfig, epoch_steps, set_field
from mmdiff.training.optimizer import OptimizerConfig
from mmdiff.training.text_presets import TEXT_METHODS, TEXT_PRESETS


@dataclasses.dataclass
class TextDataConfig:
    """Which texts, and how much of each is seen."""

    corpus: str = ""  # folder of train, dev and test files: JSON lines, CoNLL or plain text; or one file
    longest: int = 256  # tokens of a text that are seen; no more than the model has positions
    distinct: bool = False  # each text once, markers aside, however often the corpus has it
    buckets: int = 12  # lengths that texts are padded to: more of them is less padding, and as many compilations
    threads: int = 2

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if not self.corpus:
            raise ValueError("data.corpus is missing: give the folder of the texts as --config.data.corpus")
        for name, least in (("longest", 3), ("buckets", 1), ("threads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"data.{name}={getattr(self, name)} must be at least {least}")


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
    data: TextDataConfig = dataclasses.field(default_factory=TextDataConfig)
    model: TextModelConfig = dataclasses.field(default_factory=TextModelConfig)
    masking: WordMaskingConfig = dataclasses.field(default_factory=WordMaskingConfig)
    anchors: AnchorsConfig = dataclasses.field(default_factory=word_anchors_config)
    collocations: CollocationsConfig = dataclasses.field(default_factory=CollocationsConfig)
    objective: MaskedLanguageConfig = dataclasses.field(default_factory=MaskedLanguageConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)


def paper_text_pretraining(method: str, texts: int = 0) -> TextPretrainConfig:
    """The paper's continued pretraining on text (arXiv 2305.14577, table 4) by a row of TEXT_METHODS, or another strategy.

    Learning rate 1e-4, 150 epochs, an evaluation every 30 and patience 20 are the paper's; batches of 512 texts, decay and
    warm-up its code's, betas RoBERTa's (arXiv 1907.11692). Where it is not said how many `texts` there are to train on, an
    evaluation comes every epoch.
    """
    config = TextPretrainConfig()
    for path, value in TEXT_METHODS.get(method, {"masking.strategy": method}).items():
        set_field(config, path, value)
    config.optimizer = OptimizerConfig(learning_rate=1e-4, decay=0.01, decay_towards="zero")
    config.train = TrainConfig(
        steps=0, epochs=150, warmup_epochs=9.0, batch_size=512, accumulation=8, save_every=0, patience=20
    )
    config.train.expected_examples = texts
    config.train.evaluate_every = 30 * epoch_steps(config.train, texts)
    return config
