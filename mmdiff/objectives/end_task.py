"""The objective of continued pretraining on labelled texts: masked language plus the loss of the end task.

This is what the authors' continued pretraining on text does in each update (their `autoaux.py`, after AANG, arXiv 2205.14082):
labels enter pretraining, and the classifier that is finetuned afterwards is trained already.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mmdiff.data.text_examples import TextBatch
from mmdiff.models.text_encoder import TextModel
from mmdiff.objectives.masked_language import Drawn, MaskedLanguage, Scored, mean_where


class Represented(NamedTuple):
    """What is made of each text."""

    drawn: Drawn
    scored: Scored
    loss: Float[Array, " b"]  # of telling the label: cross entropy, in nats
    predicted: Int[Array, " b"]  # place of the label
    label: Int[Array, " b"]  # its place + 1; 0 where there is none


@dataclasses.dataclass(frozen=True)
class EndTask:
    """The objective of continued pretraining with the end task: one loss for all texts of an update, however it is split."""

    language: MaskedLanguage
    model: TextModel  # with a classifier of whole texts
    weight: float  # of the end task's loss beside that of masked language
    deterministic: bool = False  # no dropout

    couples = True

    def __call__(
        self, params: dict, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss and metrics; of a measurement also `predicted` and `label` of each text."""
        return self.compare(params, self.represent(params, batch, key, step))

    def represent(self, params: dict, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]) -> Represented:
        """Texts are read twice: with hidden tokens, and whole for their labels."""
        drawn, _ = self.language.draw(batch, key, step)
        scored = self.language.score(params, drawn, key, step)
        own = jax.random.fold_in(jax.random.fold_in(key, step), batch.id[0])
        logits = self.model.apply(
            {"params": params}, jnp.asarray(batch.tokens), jnp.asarray(batch.valid), deterministic=self.deterministic,
            rngs={"dropout": jax.random.fold_in(own, 1)}, method="classify",
        )  # fmt: skip
        label = jnp.asarray(batch.label)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label - 1, 0))
        return Represented(drawn, scored, loss, logits.argmax(axis=-1), label)

    def compare(self, params: dict, represented: Represented) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss and metrics of it."""
        drawn, scored, losses, predicted, label = represented
        language, metrics = self.language.reduce(scored, drawn)
        told = label > 0
        end_task = mean_where(losses, told)
        loss = language + self.weight * end_task
        metrics |= self.language.about_masks(drawn) | {
            "loss": loss,
            "end_task_loss": end_task,
            "end_task_accuracy": mean_where(predicted == label - 1, told),
        }
        return loss, metrics | ({"predicted": predicted, "label": label} if self.deterministic else {})

    def examples(self, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, ""]:
        """How many texts of a batch are real."""
        return jnp.asarray(batch.valid).any(axis=1).sum()

    def without_remat(self) -> "EndTask":
        """The same objective, with no activation computed twice to save memory."""
        model = self.model.clone(config=self.model.config._replace(remat=False))
        return dataclasses.replace(self, language=self.language.without_remat(), model=model)

    def without_dropout(self) -> "EndTask":
        """The same objective as validation measures it."""
        return dataclasses.replace(self, language=self.language.without_dropout(), deterministic=True)
