"""A batch of texts in, the loss of telling their labels, or the tags of their words, out."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from mmdiff.data.text_tasks import AskedText
from mmdiff.models.text_encoder import TextModel


@dataclasses.dataclass(frozen=True)
class TextClassification:
    """Cross entropy over what is asked: the label of each text, or with a head for tokens the tag of each word.

    The model's head says which. Every asked unit counts as much as any other.
    """

    model: TextModel
    deterministic: bool = False

    couples = False  # no text enters another's loss

    def __call__(
        self, params: dict, batch: AskedText, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, and it again with the share that is told right; of a measurement also what was told of which text."""
        own = jax.random.fold_in(jax.random.fold_in(key, batch.seed[0]), step)
        rngs = None if self.deterministic else {"dropout": own}
        logits, label = self.logits(params, batch, rngs), self.asked(batch)
        asked = label > 0
        count = jnp.maximum(asked.sum(), 1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label - 1, 0))
        loss = jnp.where(asked, losses, 0).sum() / count
        predicted = logits.argmax(axis=-1)
        found = {"loss": loss, "accuracy": (asked & (predicted == label - 1)).sum() / count}
        if self.deterministic:
            found |= {"predicted": predicted, "asked": asked, "number": jnp.asarray(batch.number)}
        return loss, found

    def logits(self, params: dict, batch: AskedText, rngs: dict | None = None) -> Float[Array, "b u c"]:
        """What each label scores: of a text, or of each of its tokens."""
        method = "classify" if self.model.head == "sequence" else "classify_tokens"
        found = self.model.apply(
            {"params": params}, jnp.asarray(batch.tokens), jnp.asarray(batch.valid), deterministic=rngs is None,
            rngs=rngs, method=method,
        )  # fmt: skip
        return found[:, None] if self.model.head == "sequence" else found

    def asked(self, batch: AskedText) -> Int[Array, "b u"]:
        """The labels + 1 where `logits` has units that are asked, 0 elsewhere."""
        return jnp.asarray(batch.label[:, :1] if self.model.head == "sequence" else batch.label)

    def examples(self, batch: AskedText, key: Key[Array, ""], step: Int[Array, ""]) -> Int[Array, ""]:
        """How many units of a batch are asked: a mean over batches counts each of them once."""
        return (self.asked(batch) > 0).sum()

    def without_remat(self) -> "TextClassification":
        """The same objective, with no activation computed twice to save memory."""
        return dataclasses.replace(self, model=self.model.clone(config=self.model.config._replace(remat=False)))

    def without_dropout(self) -> "TextClassification":
        """The same objective as validation measures it: its metrics hold `predicted`, `asked` and `number`, too."""
        return dataclasses.replace(self, deterministic=True)
