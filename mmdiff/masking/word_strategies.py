"""The tokens of a text in, which of them to hide out: the same two columns, a grouping and a score, as for patches.

A strategy of your own is a function from `Tokens` to a score for each of them, named as `package.module:function`, or
as an entry point of the group `mmdiff.masking.word_strategies`.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmdiff.data.text_tokens import WORD_RULES
from mmdiff.masking.selection import choose
from mmdiff.masking.strategies import EXACT, ask, look_up
from mmdiff.ranges import check_range

ENTRY_POINTS = "mmdiff.masking.word_strategies"
EVERYTHING = ("weight", "entities", "ngrams", "attention")  # what a function of one's own finds; importance needs a row
REPLACEMENTS = ("random", "80-10-10", "mask")
LONGEST_SPAN = 10  # words; the lengths are geometric with this share of ends, cut off (SpanBERT, arXiv 1907.10529)
SPAN_END = 0.2


@dataclasses.dataclass
class WordMaskingConfig:
    """What to hide of a text, and how. The defaults are the paper's; `official_code` changes the marked ones (*)."""

    strategy: str = "difference"  # a row of WORD_STRATEGIES, an entry point, or package.module:function
    ratio: float = 0.25  # (*0.15) share that is hidden of the tokens that may be, at least one
    alpha: float = 1.0  # at most this share of the budget goes to what the strategy wants, the rest is uniform
    noise: float = 1.0  # 1: sampled in proportion to the weights (equation 4); 0: the highest weights
    weights: str = "similarity"  # of words for `difference`; (*) rank: in equal steps from the most similar of the text
    words: str = "letters"  # how texts are split into words: of letters and digits, or (*) by "spaces"
    punctuation: str = "kept"  # of every method: words without a letter or digit are never hidden, or (*) as any word
    whole_words: bool = True  # of strategies that look at weights: a word's tokens fall together, or (*) one by one
    fill: bool = True  # what the strategy wants too little of is filled up uniformly; or less than the ratio is hidden
    static: bool = True  # one draw per text, as in the paper, or a fresh one each step
    replacement: str = "random"  # hidden tokens become random ones, (*) 80-10-10 as in BERT, or the mask token
    entities: str = ""  # the domain's terms: conll, anchors, a list, or a tagger's folder; "": conll or else anchors
    entity_rate: float = 1.0  # `entity_rates`: share of a text's entities that is hidden
    base_rate: float = 0.1  # `entity_rates`: chance of every other token
    entity_weight: float = 0.4  # `entity`: of an entity, beside `base_weight` of any other word
    base_weight: float = 0.12
    classifier: str = ""  # `selective`: folder of a model finetuned on the task, or on the marks of such a run
    selective_rule: str = "buffer"  # the method's own, marked or not; or "prefix", as Difference-Masking restates it
    selective_threshold: float = 0.05  # of `buffer`: how near to P(y | x) a token must bring what was read so far

    def validate(self) -> None:
        """Raises ValueError, with what is allowed, for a value that means nothing; StrategyError for the strategy."""
        known = {
            "weights": ("similarity", "rank"),
            "words": tuple(WORD_RULES),
            "punctuation": ("kept", "hidden"),
            "replacement": REPLACEMENTS,
            "selective_rule": ("buffer", "prefix"),
        }
        for name, allowed in known.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"masking.{name}={getattr(self, name)!r} is unknown; known: {', '.join(allowed)}")
        if not 0 < self.ratio < 1:
            raise ValueError(f"masking.ratio={self.ratio} must lie between 0 and 1")
        for name in ("alpha", "entity_rate", "base_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"masking.{name}={getattr(self, name)} must lie from 0 to 1")
        check_range(self, "masking", "noise", "entity_weight", "base_weight", "selective_threshold", least=0)
        if "importance" in find(self.strategy).looks_at and not self.classifier:
            raise ValueError(
                f"masking.strategy={self.strategy!r} needs masking.classifier, the folder of a model finetuned on the task: "
                "`mmdiff probe --mode finetune` makes one"
            )


class Tokens(NamedTuple):
    """What a strategy sees of one text: its `t` tokens. See `TextBatch` for what the numbers mean."""

    word: Int[Array, " t"]  # from 1; 0: never hidden
    weight: Float[Array, " t"]
    entity: Int[Array, " t"]
    ngram: Int[Array, " t"]
    attention: Float[Array, " t"]
    importance: Float[Array, " t"]
    key: Key[Array, ""]  # for groups that are drawn


def each_token(tokens: Tokens) -> Int[Array, " t"]:
    """Every token falls alone."""
    return jnp.arange(tokens.word.shape[0])


def each_word(tokens: Tokens) -> Int[Array, " t"]:
    """The tokens of a word fall together."""
    return tokens.word


def each_entity(tokens: Tokens) -> Int[Array, " t"]:
    """The words of an entity fall together, other words alone."""
    return jnp.where(tokens.entity > 0, -tokens.entity, tokens.word)


def each_ngram(tokens: Tokens) -> Int[Array, " t"]:
    """The words of a collocation fall together, other words alone (PMI-masking, arXiv 2010.01825)."""
    return jnp.where(tokens.ngram > 0, -tokens.ngram, tokens.word)


def drawn_spans(tokens: Tokens) -> Int[Array, " t"]:
    """Spans of 1 to 10 words, of geometric length, fall together (SpanBERT, arXiv 1907.10529, section 3.1).

    The text is cut into such spans, of which any can be chosen: SpanBERT draws where each one starts, and may cut it short.
    """
    share = SPAN_END * (1 - SPAN_END) ** np.arange(LONGEST_SPAN)
    lengths = jax.random.categorical(tokens.key, jnp.log(jnp.asarray(share)), shape=tokens.word.shape) + 1
    return jnp.searchsorted(jnp.cumsum(lengths), tokens.word - 1, side="right")


def equal(tokens: Tokens) -> Float[Array, " t"]:
    """No token is wanted more than another."""
    return jnp.zeros(tokens.word.shape)


def anchor_similarity(tokens: Tokens) -> Float[Array, " t"]:
    """In proportion to the similarity of the word to the anchors (arXiv 2305.14577, equation 4)."""
    return jnp.log(tokens.weight)


def high_attention(tokens: Tokens) -> Float[Array, " t"]:
    """In proportion to the attention (AttnMask, arXiv 2203.12719; as the paper samples it)."""
    return jnp.log(tokens.attention)


def low_attention(tokens: Tokens) -> Float[Array, " t"]:
    """In inverse proportion to the attention (MST, arXiv 2106.05656; as the paper samples it)."""
    return -jnp.log(tokens.attention)


def label_importance(tokens: Tokens) -> Float[Array, " t"]:
    """Tokens that matter to the label, see `selective.token_importance` (Selective Masking, arXiv 2004.09733)."""
    return jnp.log(tokens.importance)


def only_entities(tokens: Tokens) -> Float[Array, " t"]:
    """Entities, each as much as any other, and nothing else."""
    return jnp.where(tokens.entity > 0, 0.0, -jnp.inf)


class WordStrategy(NamedTuple):
    """Which tokens fall together, and how much each is wanted: logarithms of weights, as in `strategies.Strategy`."""

    group: Callable[[Tokens], Int[Array, " t"]]
    score: Callable[[Tokens], Float[Array, " t"]]
    looks_at: tuple[str, ...] = ()  # of Annotations, what must be there
    entity_weights: bool = False  # words and entities are wanted as masking.entity_weight and base_weight say
    rates: bool = False  # hides masking.entity_rate of the entities and base_rate of other tokens, whatever the ratio
    one_group: bool = False  # hides one group of those wanted, whatever the ratio, and nothing else

    @property
    def any_number(self) -> bool:
        """Whether more of a text may be hidden than the ratio says."""
        return self.rates or self.one_group

    replaced_together: bool = False  # a group as a whole is masked, random or left, where replacement is 80-10-10


WORD_STRATEGIES: dict[str, WordStrategy] = {
    "random_token": WordStrategy(each_token, equal),
    "random_word": WordStrategy(each_word, equal),
    "difference": WordStrategy(each_word, anchor_similarity, ("weight",)),
    "attn": WordStrategy(each_token, high_attention, ("attention",)),
    "mst": WordStrategy(each_token, low_attention, ("attention",)),
    "selective": WordStrategy(each_token, label_importance, ("importance",)),
    "entity": WordStrategy(each_entity, equal, ("entities",), entity_weights=True),
    # One entity of a text, as REALM pretrains (arXiv 2002.08909, section 3.4); and a budget of them, as far as they go.
    "salient_span": WordStrategy(each_entity, only_entities, ("entities",), one_group=True),
    "salient_filled": WordStrategy(each_entity, only_entities, ("entities",)),
    "span": WordStrategy(drawn_spans, equal, replaced_together=True),
    "pmi": WordStrategy(each_ngram, equal, ("ngrams",), replaced_together=True),
    "entity_rates": WordStrategy(each_entity, equal, ("entities",), rates=True),
}


def find(name: str) -> WordStrategy:
    """A row of WORD_STRATEGIES, an entry point of ENTRY_POINTS, or what `package.module:function` names.

    A function from `Tokens` to scores is a strategy whose words fall whole. Raises StrategyError.
    """
    found = look_up(name, WORD_STRATEGIES, ENTRY_POINTS, WordStrategy, "Tokens", "mmdiff/masking/word_strategies.py")
    return found if isinstance(found, WordStrategy) else WordStrategy(each_word, found, EVERYTHING)


class TokenMask(NamedTuple):
    """What is hidden of a text, and as what."""

    hidden: Bool[Array, " t"]
    group: Int[Array, " t"]  # tokens that fell together have the same number
    term: Bool[Array, " t"]  # of an entity; with rates, of one that is hidden whole


def mask_tokens(key: Key[Array, ""], tokens: Tokens, config: WordMaskingConfig) -> TokenMask:
    """The tokens of one text to hide: exactly floor(ratio * tokens) of those with a word, at least one.

    First what the strategy wants, up to `alpha` of the budget; then, with `fill`, uniformly from all other words. Padding
    behind the text changes nothing. `entity_rates` hides what its rates say instead (MSLM, arXiv 2403.18025), and
    `salient_span` one entity, or nothing where there is none.

    Raises StrategyError where the strategy fails or gives something else than it must.
    """
    strategy = find(config.strategy)
    wanted_key, rest_key, tokens = *jax.random.split(key), tokens._replace(key=jax.random.fold_in(key, 2))
    if not config.whole_words and "weight" in strategy.looks_at:
        strategy = strategy._replace(group=each_token)
    score, group = ask(config.strategy, strategy, tokens, tokens.word.shape[0], "tokens")
    maskable, inside = tokens.word > 0, tokens.entity > 0
    if strategy.rates:
        whole, hidden = _by_rates(wanted_key, rest_key, tokens, maskable, config)
        return TokenMask(hidden, group, whole)
    if strategy.one_group:
        return TokenMask(_one_group(wanted_key, score, group, maskable & (score > -jnp.inf)), group, inside)
    if config.weights == "rank" and strategy.score is anchor_similarity:
        score = _log_ranks(score, tokens.word)
    if strategy.entity_weights:
        score = jnp.log(jnp.where(inside, config.entity_weight, config.base_weight))
    count = maskable.sum()
    # Products in float32 fall short of whole numbers.
    sizes = np.arange(tokens.word.shape[0] + 1)
    budgets = np.maximum(np.floor(config.ratio * sizes + EXACT), 1).astype(np.int32)
    budget = jnp.asarray(budgets)[count]
    cap = jnp.asarray(np.floor(config.alpha * budgets + EXACT).astype(np.int32))[count]
    hidden = choose(wanted_key, score, group, maskable & (score > -jnp.inf), cap, config.noise)
    if config.fill:
        alone = each_token(tokens) if strategy.group is each_token else tokens.word
        hidden |= choose(rest_key, equal(tokens), alone, maskable & ~hidden, budget - hidden.sum())
    return TokenMask(hidden, group, inside)


def _one_group(
    key: Key[Array, ""], score: Float[Array, " t"], group: Int[Array, " t"], wanted: Bool[Array, " t"]
) -> Bool[Array, " t"]:
    """One group of those wanted, whole; nothing where there is none."""
    chosen = choose(key, score, group, wanted, 1)
    return wanted & chosen.any() & (group == group[jnp.argmax(chosen)])


def _log_ranks(score: Float[Array, " t"], word: Int[Array, " t"]) -> Float[Array, " t"]:
    """Weights n, n - 1, ... from the most wanted of n words down, which each token of a word has, as the official code draws.

    Of words that are wanted alike the earlier one ranks before.
    """
    place = jnp.arange(word.shape[0])
    first = jnp.argmax(word[:, None] == word[None, :], axis=1)
    stands_for = (word > 0) & (first == place)  # one token of each word
    score = score[first]
    earlier = (score[None, :] == score[:, None]) & (place[None, :] < first[:, None])
    better = stands_for[None, :] & ((score[None, :] > score[:, None]) | earlier)
    ranks = jnp.log(stands_for.sum() - better.sum(axis=1).astype(jnp.float32))
    return jnp.where(score > -jnp.inf, ranks, -jnp.inf)  # what is not wanted at all has no rank


def _by_rates(
    entity_key: Key[Array, ""],
    base_key: Key[Array, ""],
    tokens: Tokens,
    maskable: Bool[Array, " t"],
    config: WordMaskingConfig,
) -> tuple[Bool[Array, " t"], Bool[Array, " t"]]:
    """Of floor(entity_rate * entities) entities the tokens, and these and each other token with chance base_rate.

    Tokens of entities that were not chosen are other tokens, too (the released mslm/masking/custom_mask.py).
    """
    inside = maskable & (tokens.entity > 0)
    first = jnp.argmax((tokens.entity[:, None] == tokens.entity[None, :]) & maskable[None, :], axis=1)
    stands_for = inside & (first == each_token(tokens))  # one token of each entity
    counts = np.floor(config.entity_rate * np.arange(tokens.word.shape[0] + 1) + EXACT).astype(np.int32)
    chosen = choose(entity_key, equal(tokens), each_token(tokens), stands_for, jnp.asarray(counts)[stands_for.sum()])
    whole = inside & chosen[first]
    chance = jax.random.uniform(base_key, tokens.word.shape)
    return whole, whole | (maskable & (chance < config.base_rate))
