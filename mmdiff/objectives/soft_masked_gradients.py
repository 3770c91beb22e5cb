"""Masked language with DGA around it in, the loss of both out: what the model already knew learns less (arXiv 2301.08986).

First it is found how much each attention head matters to general knowledge (`head_importance`). Then, in continued
pretraining, what belongs to a head gets 1 - importance of its gradient, and a contrast keeps a text's representation with
all knowledge apart from the one with general knowledge alone, made by heads gated by their importance.

The released code (UIC-Liu-Lab/DGA@2162cd8) differs from the paper, and from this, in places: it computes importance in
evaluation mode, where both passes are equal and their divergence has no gradient but rounding, and over tokens instead of
features; it scales the inputs of a head's query, key and value instead of their outputs; it contrasts a text with its
neighbour in the batch as if that were its second pass; and its means are over padding too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.data.text_examples import TextBatch
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel, scale_gradient
from mmdiff.models.transformer import MASKED
from mmdiff.objectives.masked_language import Drawn, MaskedLanguage, Scored

TEMPERATURE = 0.05  # of the contrast, SimCSE's


def head_importance(
    model: TextModel, params: dict, batches: Iterable[TextBatch], key: Key[Array, ""]
) -> Float[np.ndarray, "l h"]:
    """How much each head matters to what the model knows, 0 to 1, found on texts without labels.

    The gradient, with respect to a gate at each head's output, of the divergence between two passes that differ in their
    dropout; summed over texts, standardised in each layer, |tanh|. What dropout disturbs most is what the model relies on.

    Args:
      model: with dropout.
      params: its parameters.
      batches: texts; nothing of them is hidden.
      key: of the dropout.
    """
    _needs_dropout(model.config)
    gradient = jax.jit(jax.grad(functools.partial(_divergence, model)))
    ones = jnp.ones((model.config.layers, model.config.heads))
    total = np.zeros(ones.shape)
    for number, batch in enumerate(batches):
        arrays = jnp.asarray(batch.tokens), jnp.asarray(batch.valid)
        total += np.asarray(gradient(ones, params, *arrays, jax.random.fold_in(key, number)))
    return normalised(total)


def normalised(gradients: Float[np.ndarray, "l h"]) -> Float[np.ndarray, "l h"]:
    """Standardised in each layer, then |tanh|: the sign does not matter. Heads that are all alike matter nothing."""
    apart = gradients - gradients.mean(axis=1, keepdims=True)
    spread = np.sqrt((apart**2).sum(axis=1, keepdims=True) / max(gradients.shape[1] - 1, 1))
    return np.abs(np.tanh(np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0)))


def _divergence(
    model: TextModel,
    gates: Float[Array, "l h"],
    params: dict,
    tokens: Int[Array, "b t"],
    valid: Bool[Array, "b t"],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """Kullback-Leibler, of the softmax over features of each token's last hidden state, between two passes."""
    once, again = (
        jax.nn.log_softmax(_encode(model, params, tokens, valid, pass_key, gates=gates).astype(jnp.float32))
        for pass_key in jax.random.split(key)
    )
    of_token = (jnp.exp(once) * (once - again)).sum(axis=-1)
    return jnp.where(valid, of_token, 0).sum()


def _encode(model: TextModel, params: dict, tokens, valid, key: Key[Array, ""], **gates) -> Float[Array, "b t d"]:
    drop = {"dropout": key}
    return model.apply({"params": params}, tokens, valid, deterministic=False, rngs=drop, method="encode", **gates)


def _needs_dropout(config: TextEncoderConfig) -> None:
    if not config.dropout:
        raise ValueError(
            "soft-masked gradients need dropout: two passes over a text must differ (objective.dropout=0.1)"
        )


def contrast(
    full: Float[Array, "b d"],
    again: Float[Array, "b d"],
    gated: Float[Array, "b d"],
    valid: Bool[Array, " b"],
    temperature: float = TEMPERATURE,
) -> Float[Array, ""]:
    """Each text's representation finds its second pass among all texts' second passes and gated ones.

    Cosines, divided by the temperature; the mean cross entropy over valid texts.
    """

    def unit(x: Array) -> Array:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt((x**2).sum(axis=-1, keepdims=True) + 1e-12)

    logits = unit(full) @ jnp.concatenate([unit(again), unit(gated)]).T / temperature
    logits = jnp.where(jnp.concatenate([valid, valid]), logits, MASKED)
    own = jnp.diagonal(jax.nn.log_softmax(logits))
    return -jnp.where(valid, own, 0).sum() / jnp.maximum(valid.sum(), 1)


def soften_parameters(params: dict, scale: Float[Array, "l h"]) -> dict:
    """The same parameters; the gradients of each head's own are multiplied by `scale`: the paper's equation.

    Those are its query, key and value, and its rows of the layer's output. Adam divides a gradient by its own usual size,
    so that under it a scale that stays the same changes little; SGD feels all of it.
    """
    encoder = dict(params["encoder"])
    for number, of_layer in enumerate(scale):
        name = f"layer_{number:02d}"
        layer = dict(encoder[name])
        width = layer["attention_out"]["kernel"].shape[0]
        features = jnp.repeat(of_layer, width // len(of_layer), total_repeat_length=width)
        for part in ("query", "key", "value"):
            layer[part] = jax.tree.map(lambda x, features=features: scale_gradient(x, features), layer[part])
        out = layer["attention_out"]
        layer["attention_out"] = out | {"kernel": scale_gradient(out["kernel"], features[:, None])}
        encoder[name] = layer
    return params | {"encoder": encoder}


# Where gradients are softened: parameters in, parameters and the arguments of a pass out.
SOFTEN: dict[str, Callable[[dict, Array], tuple[dict, dict]]] = {
    "parameters": lambda params, scale: (soften_parameters(params, scale), {}),
    # What flows back through a head's output is scaled, so that lower layers feel it too, under Adam as well.
    "flow": lambda params, scale: (params, {"gradient_scale": scale}),
}


class Represented(NamedTuple):
    """What is made of each text."""

    drawn: Drawn
    scored: Scored
    full: Float[Array, "b d"]
    again: Float[Array, "b d"]
    gated: Float[Array, "b d"]
    valid: Bool[Array, " b"]


@dataclasses.dataclass(frozen=True)
class SoftMaskedGradients:
    """The objective of continued pretraining with DGA; texts of an update are contrasted with each other."""

    language: MaskedLanguage
    importance: tuple[tuple[float, ...], ...]  # of each layer's heads, of the model that training starts with
    temperature: float = TEMPERATURE
    soften: str = "parameters"  # a row of SOFTEN

    couples = True

    def __post_init__(self) -> None:
        config = self.language.model.config
        _needs_dropout(config)
        if self.soften not in SOFTEN:
            raise ValueError(f"soften={self.soften!r} is unknown; known: {', '.join(SOFTEN)}")
        if np.shape(self.importance) != (config.layers, config.heads):
            raise ValueError(
                f"importance is of {np.shape(self.importance)} layers and heads, and the model has "
                f"{(config.layers, config.heads)}"
            )

    def __call__(
        self, params: dict, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of masked language plus the contrast, and the metrics of both."""
        return self.compare(params, self.represent(params, batch, key, step))

    def represent(self, params: dict, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]) -> Represented:
        """What is contrasted is the mean of a text's tokens, none of them hidden."""
        batch = jax.tree.map(jnp.asarray, batch)
        model, importance = self.language.model, jnp.asarray(self.importance, jnp.float32)
        params, softened = SOFTEN[self.soften](params, 1 - importance)
        drawn, _ = self.language.draw(batch, key, step)
        scored = self.language.score(params, drawn, key, step, **softened)
        twice_key, gated_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, step), batch.id[0]))
        tokens, valid = batch.tokens, batch.valid

        def mean(tokens, valid, key, **gates) -> Float[Array, "b d"]:
            hidden = _encode(model, params, tokens, valid, key, **gates, **softened).astype(jnp.float32)
            total = jnp.where(valid[..., None], hidden, 0).sum(axis=1)
            return total / jnp.maximum(valid.sum(axis=1, keepdims=True), 1)

        both = mean(jnp.concatenate([tokens, tokens]), jnp.concatenate([valid, valid]), twice_key)
        full, again = jnp.split(both, 2)
        return Represented(
            drawn, scored, full, again, mean(tokens, valid, gated_key, gates=importance), valid.any(axis=1)
        )

    def compare(self, params: dict, represented: Represented) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss and metrics of it."""
        loss, metrics = self.language.reduce(represented.scored, represented.drawn)
        metrics |= self.language.about_masks(represented.drawn)
        contrasted = contrast(*represented[2:], self.temperature)
        return loss + contrasted, metrics | {"loss": loss + contrasted, "contrast_loss": contrasted}

    def examples(self, batch: TextBatch, key: Key[Array, ""], step: Int[Array, ""]) -> Float[Array, ""]:
        """As masked language weighs a batch."""
        return self.language.examples(batch, key, step)

    def without_remat(self) -> "SoftMaskedGradients":
        """The same objective, with no activation computed twice to save memory."""
        return dataclasses.replace(self, language=self.language.without_remat())

    def without_dropout(self) -> MaskedLanguage:
        """What validation measures: masked language alone, as of every other strategy."""
        return self.language.without_dropout()
