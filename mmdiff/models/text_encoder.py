"""Token ids in, the hidden states of BERT and RoBERTa (arXiv 1810.04805, 1907.11692) out, and what their heads make of them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.models.transformer import MASKED, first_attention


def gelu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """x * Phi(x), exactly. In float32 by erf, which takes a third of the time of `nn.gelu`'s erfc."""
    if x.dtype != jnp.float32:
        return nn.gelu(x, approximate=False)  # 1 + erf(x) has no digits left in the lower tail
    return 0.5 * x * (1 + jax.lax.erf(x * np.float32(np.sqrt(0.5))))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
}
FAMILIES = ("bert", "roberta")
HEADS = ("sequence", "token")
PARTS = ("encoder", "pooler", "mlm_head", "classifier")


class TextEncoderConfig(NamedTuple):
    """Sizes of an encoder, and how it is trained."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    positions: int  # rows of the table of positions
    token_types: int
    first_position: int = 0  # row of a text's first token: RoBERTa leaves out those up to its padding id
    activation: str = "gelu"  # a row of ACTIVATIONS
    layer_norm_epsilon: float = 1e-12
    dtype: str = "float32"  # of matrix products
    family: str = "bert"  # or "roberta": their heads differ
    dropout: float = 0.0  # of attention and of hidden states, where a call is not deterministic
    remat: bool = False  # recompute each layer's activations in the backward pass

    @property
    def longest(self) -> int:
        """How many tokens a text may have."""
        return self.positions - self.first_position


def _layer_norm(config: TextEncoderConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_epsilon, dtype=config.dtype, use_fast_variance=False, name=name)


def _dense(config: TextEncoderConfig, width: int, name: str) -> nn.Dense:
    return nn.Dense(width, dtype=config.dtype, kernel_init=nn.initializers.normal(0.02), name=name)


class Embeddings(nn.Module):
    """Words, positions and token types, added and normalised."""

    config: TextEncoderConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], types: Int[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        def table(rows: int, name: str) -> nn.Embed:
            size = self.config.hidden_size
            return nn.Embed(rows, size, dtype=self.config.dtype, embedding_init=nn.initializers.normal(0.02), name=name)

        # Padding takes the row before the first, as in RoBERTa; nobody reads it.
        position = jnp.maximum(jnp.cumsum(valid, axis=1) * valid - 1 + self.config.first_position, 0)
        x = table(self.config.vocab_size, "word_embeddings")(tokens)
        x += table(self.config.positions, "position_embeddings")(position)
        x += table(self.config.token_types, "token_type_embeddings")(types)
        return _layer_norm(self.config, "LayerNorm")(x)


class Dropout(nn.Module):
    """Numbers are zero with probability `rate` and the others made larger to match (arXiv 1207.0580).

    16 random bits decide of each, half of what `nn.Dropout` draws: the rate is met to 1e-5.
    """

    rate: float
    deterministic: bool

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        if self.deterministic or not self.rate:
            return x
        *leading, width = x.shape
        bits = jax.random.bits(self.make_rng("dropout"), (*leading, -(-width // 2)), jnp.uint32)
        halves = jax.lax.bitcast_convert_type(bits, jnp.uint16).reshape(*leading, -1)[..., :width]
        return jnp.where(halves < np.uint16(round(self.rate * 2**16)), 0, x / (1 - self.rate))


@jax.custom_vjp
def scale_gradient(x: Array, scale: Array) -> Array:
    """x; the gradient that comes back through it is multiplied by `scale`, which gets none."""
    return x


scale_gradient.defvjp(lambda x, scale: (x, scale), lambda scale, flowing: (flowing * scale, jnp.zeros_like(scale)))


class Layer(nn.Module):
    """Attention and feed-forward, each added to its input and then normalised (post-norm)."""

    config: TextEncoderConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        valid: Bool[Array, "b t"],
        gates: Float[Array, " h"] | None = None,
        gradient_scale: Float[Array, " h"] | None = None,
        at: Int[Array, "b m"] | None = None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b t"]]:
        """The layer's output `at` these positions, or at all, and how the first of them attends to each token.

        Nobody pays for the latter who does not read it.
        """
        config, (batch, length, width) = self.config, x.shape
        drop = Dropout(config.dropout, self.deterministic)
        asking = x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)

        def heads(name: str, x: Float[Array, "b n d"]) -> Float[Array, "b n h c"]:
            return _dense(config, width, name)(x).reshape(batch, -1, config.heads, width // config.heads)

        query, key, value = heads("query", asking), heads("key", x), heads("value", x)
        mixed = attend(query, key, value, valid, drop)
        for scale, change in ((gates, jnp.multiply), (gradient_scale, scale_gradient)):
            if scale is not None:
                mixed = change(mixed, scale[:, None].astype(mixed.dtype))
        out = _dense(config, width, "attention_out")(mixed.reshape(asking.shape))
        x = _layer_norm(config, "attention_norm")(asking + drop(out))
        inside = ACTIVATIONS[config.activation](_dense(config, config.intermediate_size, "intermediate")(x))
        x = _layer_norm(config, "out_norm")(x + drop(_dense(config, width, "out")(inside)))
        return x, first_attention(query, key, jnp.broadcast_to(valid[:, None], (batch, query.shape[1], length)))


def attend(
    query: Float[Array, "b m h c"],
    key: Float[Array, "b t h c"],
    value: Float[Array, "b t h c"],
    valid: Bool[Array, "b t"],
    drop: Callable[[jax.Array], jax.Array],
) -> Float[Array, "b m h c"]:
    """Attention to valid tokens, its softmax in float32, its weights dropped as `drop` does."""
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    logits = jnp.einsum("bhqc,bhkc->bhqk", query * np.asarray(query.shape[-1] ** -0.5, query.dtype), key)
    logits = jnp.where(valid[:, None, None], logits, jnp.asarray(MASKED, logits.dtype))
    weights = drop(jax.nn.softmax(logits.astype(jnp.float32)).astype(value.dtype))
    return jnp.einsum("bhqk,bhkc->bhqc", weights, value).swapaxes(1, 2)


class BertEncoder(nn.Module):
    """Token ids in, the last hidden states out."""

    config: TextEncoderConfig

    def __call__(
        self,
        tokens: Int[Array, "b t"],
        valid: Bool[Array, "b t"],
        types: Int[Array, "b t"] | None = None,
        *,
        gates: Float[Array, "l h"] | None = None,
        gradient_scale: Float[Array, "l h"] | None = None,
        at: Int[Array, "b m"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b m d"]:
        """The last layer's output.

        Args:
          tokens: ids; what invalid ones are does not matter.
          valid: which positions hold a token; the others are not attended to.
          types: rows of the table of token types; none: the first.
          gates: each head's output is multiplied by these.
          gradient_scale: the gradient that comes back through each head's output is; the output is not.
          at: positions whose output is asked for, and computed; none: all.
          deterministic: no dropout; otherwise needs a key called "dropout".
        """
        return self._run(tokens, valid, types, gates, gradient_scale, at, deterministic)[0]

    def cls_attention(self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]) -> Float[Array, "b t"]:
        """How the first token attends to each in the last layer, mean over heads; passes no gradient."""
        return self._run(tokens, valid, None, None, None, None, True)[1]

    @nn.compact
    def _run(self, tokens, valid, types, gates, gradient_scale, at, deterministic: bool):
        types = jnp.zeros_like(tokens) if types is None else types
        x = Embeddings(self.config, name="embeddings")(tokens, valid, types)
        x = Dropout(self.config.dropout, deterministic)(x)
        attention = None
        # Not unrolled into one loop by the compiler: what it recomputes it would then keep after all.
        layer = nn.remat(Layer) if self.config.remat else Layer
        for i in range(self.config.layers):
            row = (None if scales is None else scales[i] for scales in (gates, gradient_scale))
            # Other tokens of the last layer are read by nobody.
            where = at if i == self.config.layers - 1 else None
            x, attention = layer(self.config, deterministic, name=f"layer_{i:02d}")(x, valid, *row, where)
        return x, attention


class MaskedLanguageHead(nn.Module):
    """Hidden states in, a score for every word of the vocabulary out, whose table is that of the embeddings."""

    config: TextEncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"], table: Float[Array, "v d"]) -> Float[Array, "*n v"]:
        config = self.config
        # RoBERTa's head has its own activation, whatever the layers have.
        activation = ACTIVATIONS["gelu" if config.family == "roberta" else config.activation]
        x = activation(_dense(config, config.hidden_size, "dense")(x))
        x = _layer_norm(config, "LayerNorm")(x)
        bias = self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        logits = jnp.einsum(
            "...d,vd->...v", x.astype(config.dtype), table.astype(config.dtype), preferred_element_type=jnp.float32
        )
        return logits + bias


class Classifier(nn.Module):
    """Hidden states in, a score for each label out. RoBERTa's of whole texts has a layer of its own before."""

    config: TextEncoderConfig
    labels: int
    with_layer: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*n d"], deterministic: bool) -> Float[Array, "*n c"]:
        drop = Dropout(self.config.dropout, deterministic)
        if self.with_layer:
            x = jnp.tanh(_dense(self.config, self.config.hidden_size, "dense")(drop(x)))
        return _dense(self.config, self.labels, "out_proj")(drop(x)).astype(jnp.float32)


class TextModel(nn.Module):
    """An encoder with the heads of BERT or RoBERTa; a method needs the parameters of the parts that it goes through."""

    config: TextEncoderConfig
    labels: int = 0
    head: str | None = None  # of HEADS: what the classifier's labels are for

    def setup(self) -> None:
        self.encoder = BertEncoder(self.config)
        self.pooler = nn.Dense(
            self.config.hidden_size, dtype=self.config.dtype, kernel_init=nn.initializers.normal(0.02)
        )
        self.mlm_head = MaskedLanguageHead(self.config)
        with_layer = self.config.family == "roberta" and self.head == "sequence"
        self.classifier = Classifier(self.config, self.labels, with_layer)

    def encode(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], types: Int[Array, "b t"] | None = None, **how
    ) -> Float[Array, "b m d"]:
        """The last hidden states; `how` is BertEncoder's gates, gradient_scale, at and deterministic."""
        return self.encoder(tokens, valid, types, **how)

    def pooled(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], deterministic: bool = True
    ) -> Float[Array, "b d"]:
        """BERT's summary of a text, of its first token."""
        return jnp.tanh(self.pooler(self.encode(tokens, valid, deterministic=deterministic)[:, 0]))

    def masked_logits(
        self,
        tokens: Int[Array, "b t"],
        valid: Bool[Array, "b t"],
        positions: Int[Array, "b m"],
        types: Int[Array, "b t"] | None = None,
        **how,
    ) -> Float[Array, "b m v"]:
        """What each word of the vocabulary scores at these positions, in float32; `how` as `encode`."""
        return self.language_logits(self.encode(tokens, valid, types, at=positions, **how))

    def language_logits(self, hidden: Float[Array, "*n d"]) -> Float[Array, "*n v"]:
        """What each word of the vocabulary scores, of hidden states of the same parameters' encoder."""
        return self.mlm_head(hidden, self.encoder.get_variable("params", "embeddings")["word_embeddings"]["embedding"])

    def classify(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], deterministic: bool = True
    ) -> Float[Array, "b c"]:
        """What each label of a text scores; of a model whose `head` is "sequence"."""
        if self.config.family == "roberta":
            summary = self.encode(tokens, valid, deterministic=deterministic)[:, 0]
        else:
            summary = self.pooled(tokens, valid, deterministic)
        return self.classifier(summary, deterministic)

    def classify_tokens(
        self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"], deterministic: bool = True
    ) -> Float[Array, "b t c"]:
        """What each label of each token scores; of a model whose `head` is "token"."""
        return self.classifier(self.encode(tokens, valid, deterministic=deterministic), deterministic)

    def cls_attention(self, tokens: Int[Array, "b t"], valid: Bool[Array, "b t"]) -> Float[Array, "b t"]:
        """How the first token attends to each in the last layer, mean over heads; passes no gradient."""
        return self.encoder.cls_attention(tokens, valid)


def parts_of(config: TextEncoderConfig, head: str) -> tuple[str, ...]:
    """The parts that `classify` (head "sequence") or `classify_tokens` ("token") goes through."""
    pools = config.family == "bert" and head == "sequence"
    return ("encoder", "pooler", "classifier") if pools else ("encoder", "classifier")


def init_text_params(
    config: TextEncoderConfig,
    key: Key[Array, ""],
    parts: tuple[str, ...] = ("encoder", "mlm_head"),
    labels: int = 0,
    head: str | None = None,
) -> dict:
    """Random parameters of these parts of a TextModel; the encoder's are there always."""
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"no part of a text model is called {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    if "classifier" in parts and (head not in HEADS or labels < 1):
        raise ValueError(f"a classifier needs labels and a head of {', '.join(HEADS)}: found {labels} and {head!r}")

    def touch(model: TextModel) -> None:
        x = model.encode(tokens, tokens == 0)
        if "pooler" in parts:
            model.pooler(x[:, 0])
        if "mlm_head" in parts:
            model.language_logits(x)
        if "classifier" in parts:
            model.classifier(x[:, 0], True)

    tokens = jnp.zeros((1, 1), jnp.int32)
    return TextModel(config, labels, head).init(key, method=touch)["params"]


def init_params(config: TextEncoderConfig, key: jax.Array) -> dict:
    """Random parameters of BertEncoder."""
    return init_text_params(config, key, ("encoder",))["encoder"]
