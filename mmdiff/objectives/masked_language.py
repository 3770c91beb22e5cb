"""A batch of texts and a key in, the loss of predicting hidden tokens out: continued pretraining on text."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.data.text_examples import TextBatch
from mmdiff.masking.selection import example_keys
from mmdiff.masking.strategies import EXACT
from mmdiff.masking.word_hiding import replace
from mmdiff.masking.word_strategies import TokenMask, Tokens, WordMaskingConfig, find, mask_tokens
from mmdiff.models.text_encoder import TextModel
from mmdiff.ranges import check_range

WEIGHTINGS = ("equal", "terms", "mslm")


@dataclasses.dataclass
class MaskedLanguageConfig:
    """How the loss is computed."""

    weighting: str = "equal"  # of hidden tokens: equal, `terms` (by MSLM's weights), or all of its loss, `mslm`
    dropout: float = 0.1  # while training
    soft_masked_gradients: bool = False  # DGA (arXiv 2301.08986): what matters to general knowledge learns less
    importance_texts: int = 1000  # `soft_masked_gradients`: training texts from which the importance of heads is found
    contrast_temperature: float = 0.05  # `soft_masked_gradients`
    end_task: float = 0.0  # weight of telling the texts' labels, which then enter pretraining, as in the authors' code
    end_task_metric: str = (
        "macro_f1"  # `end_task`: by which the best parameters are chosen on validation; or "accuracy"
    )
    soften: str = "parameters"  # `soft_masked_gradients`: the gradient of a head's parameters alone, or of what "flow"s through it

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing."""
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"objective.weighting={self.weighting!r} is unknown; known: {', '.join(WEIGHTINGS)}")
        check_range(self, "objective", "dropout", least=0, below=1)
        check_range(self, "objective", "importance_texts", least=1)
        check_range(self, "objective", "contrast_temperature", above=0)
        check_range(self, "objective", "end_task", least=0)
        if self.soft_masked_gradients and not self.dropout:
            raise ValueError(
                "objective.soft_masked_gradients=True needs objective.dropout above 0: heads matter by what it disturbs"
            )
        if self.soften not in ("parameters", "flow"):
            raise ValueError(f"objective.soften={self.soften!r} is unknown; known: parameters, flow")
        if self.end_task and self.soft_masked_gradients:
            raise ValueError(
                "objective.end_task and objective.soft_masked_gradients do not go together: set one of them"
            )
        if self.end_task_metric not in ("macro_f1", "accuracy"):
            raise ValueError(
                f"objective.end_task_metric={self.end_task_metric!r} is unknown; known: macro_f1, accuracy"
            )


class TermWeights(NamedTuple):
    """How much a hidden token counts: one of a domain term, and any other (MSLM, arXiv 2403.18025)."""

    term: float = 1.0
    other: float = 1.0


ALIKE = TermWeights()


def term_weights(hidden_in_terms: int, hidden_elsewhere: int) -> TermWeights:
    """The released code's weights, from how many tokens a corpus' masks hide: the softmax of two shares, plus 1.

    The share of terms among the hidden tokens, but at least a half, stands for terms; or a half at most for other tokens.
    """
    share = 1 - hidden_elsewhere / max(hidden_in_terms + hidden_elsewhere, 1)
    shares = np.array([max(0.5, share), min(0.5, share)])
    term, other = np.exp(shares) / np.exp(shares).sum()
    return TermWeights(1 + float(term), 1 + float(other))


class Drawn(NamedTuple):
    """A batch whose masks are drawn: all that its loss needs, whatever the strategy.

    Of each text `m` places: all hidden ones, and others that do not count.
    """

    id: Int[Array, " b"]
    tokens: Int[Array, "b t"]  # as the model reads them
    valid: Bool[Array, "b t"]
    place: Int[Array, "b m"]
    target: Int[Array, "b m"]  # tokens as they were
    hidden: Bool[Array, "b m"]
    weight: Float[Array, "b m"]  # of a place in the loss
    in_term: Bool[Array, "b m"]
    similarity: Float[Array, "b m"]  # of the word to the anchors
    maskable: Int[Array, " b"]  # tokens that may be hidden


class Scored(NamedTuple):
    """What the model makes of the places of a drawn batch."""

    loss: Float[Array, "b m"]  # cross entropy, in nats
    right: Bool[Array, "b m"]


@dataclasses.dataclass(frozen=True)
class MaskedLanguage:
    """The objective of continued pretraining on text: what the training loop asks for a loss."""

    model: TextModel
    masking: WordMaskingConfig
    config: MaskedLanguageConfig
    mask_token: int  # its id
    special_tokens: tuple[int, ...]  # ids that are never drawn in place of a hidden token
    weights: TermWeights = ALIKE
    deterministic: bool = False  # no dropout
    added: int = 0  # special tokens around each text, which are never hidden

    couples = False

    def __call__(
        self, params: dict, batch: TextBatch | Drawn, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss, a mean over the hidden tokens of the batch, and scalar metrics.

        It depends neither on padding nor, weighed by `examples`, on how texts are batched. Of a batch that was drawn before,
        `draw` gave the metrics of its masks.
        """
        drawn, about_masks = (batch, {}) if isinstance(batch, Drawn) else self.draw(batch, key, step)
        loss, metrics = self.reduce(self.score(params, drawn, key, step), drawn)
        return loss, metrics | about_masks

    def draw(
        self, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Drawn, dict[str, Float[Array, ""]]]:
        """What a step with these arguments hides of a batch, and metrics of that.

        It needs no parameters: compiled by itself, all strategies share the program of the loss.
        """
        mask, tokens = self.hide(batch, key, step)
        # Hidden places first: the vocabulary is scored only there.
        place = jnp.argsort(~mask.hidden, axis=1, stable=True)[:, : self.most_places(mask.hidden.shape[1])]

        def at(x: Array) -> Array:
            return jnp.take_along_axis(x, place, axis=1)

        hidden, in_term = at(mask.hidden), at(mask.term)
        weight = 1.0 if self.config.weighting == "equal" else self.weight_of(in_term)
        drawn = Drawn(
            jnp.asarray(batch.id), tokens, jnp.asarray(batch.valid), place, at(batch.tokens), hidden,
            jnp.where(hidden, weight, 0.0), in_term, at(batch.weight), (batch.word > 0).sum(axis=1),
        )  # fmt: skip
        return drawn, self.about_masks(drawn)

    def shortened(self, drawn: Drawn, length: int) -> Drawn:
        """What `draw` makes of the same texts with padding to this length only."""
        places = self.most_places(length)
        cut = {name: getattr(drawn, name)[:, :length] for name in ("tokens", "valid")}
        of_places = ("place", "target", "hidden", "weight", "in_term", "similarity")
        return drawn._replace(**cut, **{name: getattr(drawn, name)[:, :places] for name in of_places})

    def about_masks(self, drawn: Drawn) -> dict[str, Float[Array, ""]]:
        """Metrics of what is hidden."""
        hidden = drawn.hidden
        metrics = {"hidden_share": hidden.sum() / jnp.maximum(drawn.maskable.sum(), 1)}
        # Of what nobody looks at a text holds nothing.
        looks_at = find(self.masking.strategy).looks_at
        if "weight" in looks_at:
            metrics["hidden_similarity"] = mean_where(drawn.similarity, hidden)
        if "entities" in looks_at or self.config.weighting != "equal":
            metrics["hidden_in_terms"] = mean_where(drawn.in_term, hidden)
        return metrics

    def score(
        self,
        params: dict,
        drawn: Drawn,
        key: Key[Array, ""],
        step: Int[Array, ""],
        gradient_scale: Float[Array, "l h"] | None = None,
    ) -> Scored:
        """The loss at each place; `gradient_scale` as in `BertEncoder`."""
        # Microbatches of a step begin with different texts.
        drop_key = jax.random.fold_in(jax.random.fold_in(jax.random.split(key, 3)[2], step), drawn.id[0])
        drop = {"dropout": drop_key}
        logits = self.model.apply(
            {"params": params}, drawn.tokens, drawn.valid, drawn.place, gradient_scale=gradient_scale,
            deterministic=self.deterministic or not self.model.config.dropout, rngs=drop, method="masked_logits",
        )  # fmt: skip
        of_target = jnp.take_along_axis(logits, drawn.target[..., None], axis=-1)[..., 0]
        # The loss computes this maximum, too: argmax would be one more pass.
        right = of_target >= logits.max(axis=-1)
        return Scored(optax.softmax_cross_entropy_with_integer_labels(logits, drawn.target), right)

    def reduce(self, scored: Scored, drawn: Drawn) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss and scalar metrics of places."""
        hidden, weight = drawn.hidden, drawn.weight
        if self.config.weighting == "mslm":
            # As released: visible tokens count 1, and a text counts by its hidden tokens; but padding does not.
            valid = jnp.take_along_axis(drawn.valid, drawn.place, axis=1)
            weighed = jnp.where(valid, jnp.where(hidden, weight, 1.0) * scored.loss, 0).sum(axis=1)
            of_text = weighed / jnp.maximum(drawn.valid.sum(axis=1), 1) * (1 + hidden.sum(axis=1))
            loss = mean_where(of_text, drawn.valid.any(axis=1))
        else:
            loss = jnp.sum(jnp.where(hidden, weight * scored.loss, 0)) / jnp.maximum(weight.sum(), 1e-9)
        metrics = {
            "loss": loss,
            "masked_loss": mean_where(scored.loss, hidden),
            "accuracy": mean_where(scored.right, hidden),
        }
        return loss, metrics

    def most_places(self, length: int) -> int:
        """How many tokens of a text of this length may count."""
        if self.config.weighting == "mslm" or find(self.masking.strategy).any_number:
            return length
        return max(int(np.floor(self.masking.ratio * (length - self.added) + EXACT)), 1)

    def hide(self, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]) -> tuple[TokenMask, Int[Array, "b t"]]:
        """What a step with these arguments hides, and what the model reads.

        Masks are a function of the run's key, the text's id and, unless static, the step. What stands in place of hidden
        tokens is drawn anew each step even where the masks stay: nothing can be learned from it.
        """
        batch = jax.tree.map(jnp.asarray, batch)
        mask_key, value_key, _ = jax.random.split(key, 3)
        mask_keys = example_keys(batch.id, mask_key if self.masking.static else jax.random.fold_in(mask_key, step))
        value_keys = example_keys(batch.id, jax.random.fold_in(value_key, step))
        vocabulary = np.arange(self.model.config.vocab_size)
        ordinary = jnp.asarray(vocabulary[~np.isin(vocabulary, self.special_tokens)], jnp.int32)
        together = find(self.masking.strategy).replaced_together

        def of_text(mask_key, value_key, row: TextBatch):
            seen = Tokens(row.word, row.weight, row.entity, row.ngram, row.attention, row.importance, mask_key)
            mask = mask_tokens(mask_key, seen, self.masking)
            values = replace(
                value_key,
                row.tokens,
                mask.hidden,
                mask.group,
                self.masking.replacement,
                self.mask_token,
                ordinary,
                together,
            )
            return mask, values

        return jax.vmap(of_text)(mask_keys, value_keys, batch)

    def examples(self, batch: TextBatch | Drawn, key: Key[Array, ""], step: Int[Array, ""]) -> Float[Array, ""]:
        """How much a batch weighs beside others: what its loss is a mean over, by hidden tokens or their weights, or texts."""
        if self.config.weighting == "mslm":
            return batch.valid.any(axis=1).sum().astype(jnp.float32)
        drawn = batch if isinstance(batch, Drawn) else self.draw(batch, key, step)[0]
        return drawn.weight.sum()

    def weight_of(self, in_term: Bool[Array, "*n"]) -> Float[Array, "*n"]:
        """Of hidden tokens."""
        return jnp.where(in_term, self.weights.term, self.weights.other)

    def without_remat(self) -> "MaskedLanguage":
        """The same objective, with no activation computed twice to save memory."""
        return self._with_sizes(remat=False)

    def without_dropout(self) -> "MaskedLanguage":
        """The same objective as validation measures it."""
        return dataclasses.replace(self, deterministic=True)

    def _with_sizes(self, **changed) -> "MaskedLanguage":
        return dataclasses.replace(self, model=self.model.clone(config=self.model.config._replace(**changed)))


def mean_where(x: Array, where: Bool[Array, "*n"]) -> Float[Array, ""]:
    """The mean over the places that are true; 0 where none is."""
    return jnp.sum(jnp.where(where, x, 0)) / jnp.maximum(where.sum(), 1)
