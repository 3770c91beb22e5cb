"""What the rows of the table hide, and what each option of a masking configuration changes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mmdiff.masking import strategies
from mmdiff.masking.hiding import hide, random_values
from mmdiff.masking.strategies import (
    STRATEGIES,
    MaskingConfig,
    Patches,
    Strategy,
    StrategyError,
    find,
    mask_patches,
    patch_units,
    with_strategy,
)

GRID, FRAMES = (4, 10), 2
N = 80
PERSON = slice(10, 22)  # twelve patches of one track
OTHER = slice(40, 46)  # six of another


def patches(valid: int = N, persons=(PERSON, OTHER), n: int = N, **values) -> Patches:
    """A clip in which everything but the boxes and the values given is drawn at random."""
    rng = np.random.default_rng(0)
    track, weight = np.zeros(n, np.int32), np.zeros(n, np.float32)
    for number, place in enumerate(persons, start=1):
        track[place], weight[place] = number, 1.0
    drawn = {name: rng.random(n).astype(np.float32) for name in ("attention", "similarity", "y", "x")}
    clip = {
        "track": track,
        "weight": weight,
        "valid": np.arange(n) < valid,
        "frame": np.arange(n) // (n // FRAMES),
        "features": rng.random((n, 3)).astype(np.float32),
    }
    return Patches(**drawn | clip | values)


@functools.cache
def masking(*fields):
    """The masks of many keys and one clip, as one program for all clips of a size."""
    config = MaskingConfig(*fields)

    @jax.jit
    def masks(keys, clip):
        count = len(clip.valid)
        units = patch_units(config.unit, FRAMES, GRID, 2) if count == N else np.arange(count)[:, None]
        return jax.vmap(lambda key: mask_patches(key, clip, config, units))(keys)

    return masks


def mask(config: MaskingConfig, seed: int = 0, clip: Patches | None = None, **options):
    clip = patches(**options) if clip is None else clip
    found = masking(*dataclasses.astuple(config))(jax.random.key(seed)[None], clip)
    return jax.tree.map(lambda x: np.asarray(x)[0], found)


def many(config: MaskingConfig, clip: Patches, draws: int) -> np.ndarray:
    """Hidden patches of many draws, [draws, n]."""
    keys = jax.random.split(jax.random.key(7), draws)
    return np.asarray(masking(*dataclasses.astuple(config))(keys, clip).hidden)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("persons", [(), (PERSON,), (slice(0, N),)], ids=["nobody", "one", "everywhere"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_quarter_of_the_valid_patches_is_hidden_whatever_the_boxes(strategy, persons, alpha):
    found = mask(MaskingConfig(strategy=strategy, alpha=alpha), valid=70, persons=persons)
    assert found.hidden.sum() == 17
    assert not found.hidden[70:].any()
    np.testing.assert_array_equal(found.hidden, found.scored)


def test_difference_hides_the_person_first():
    # The budget is 20: both tracks (18 patches) fall whole, two more patches fill it.
    hidden = mask(MaskingConfig(strategy="difference")).hidden
    assert hidden[PERSON].all() and hidden[OTHER].all()


def test_a_track_larger_than_the_rest_of_the_budget_is_the_only_one_cut():
    hidden = many(MaskingConfig(strategy="difference", ratio=0.15), patches(), 20)
    whole = hidden[:, PERSON].all(axis=1) | hidden[:, OTHER].all(axis=1)
    assert whole.all() and not hidden[:, :10].any()
    assert hidden[:, PERSON].all(axis=1).any() and hidden[:, OTHER].all(axis=1).any()


def test_alpha_caps_the_share_of_persons():
    config = MaskingConfig(strategy="difference", alpha=0.5)
    inside = many(config, patches(), 200)[:, np.r_[PERSON, OTHER]].sum(axis=1)
    # Ten by choice; the other ten fall on any of the 70 patches left, of which 8 are inside.
    assert min(inside) >= 10
    assert np.mean(inside) == pytest.approx(10 + 10 * 8 / 70, abs=4 * np.sqrt(10 * 8 / 70 / 200))


def test_random_ignores_boxes():
    with_boxes, without = (mask(MaskingConfig(strategy="random"), persons=p).hidden for p in ((PERSON,), ()))
    np.testing.assert_array_equal(with_boxes, without)


def test_padding_is_hidden_only_where_asked():
    found = mask(MaskingConfig(strategy="random", mask_padding=True, ratio=0.5), valid=20)
    assert found.hidden.sum() == 40 and found.hidden[20:].any()


def test_the_official_rounding_error_hides_the_last_patch_unscored():
    # int((0.25 - p / 2016) * 2016) loses one for 98 of the 505 possible counts p.
    lost = [504 - p - int((0.25 - p / 2016) * 2016) for p in range(505)]
    assert sum(lost) == 98
    inside = lost.index(1)
    track = (np.arange(2016) < inside).astype(np.int32)
    clip = patches(n=2016, valid=2016, track=track, weight=(track > 0).astype(np.float32))
    found = mask(MaskingConfig(strategy="difference", drop_by_rounding=True), clip=clip)
    assert found.scored.sum() == 503 and found.hidden[-1]
    assert found.hidden.sum() == 503 + int(~found.scored[-1])


def test_unknown_values_name_the_known_ones():
    with pytest.raises(StrategyError, match=r"known: random, difference, attn, mst, clip; your own is package\.module"):
        MaskingConfig(strategy="differnce").validate()
    with pytest.raises(StrategyError, match=r"'difference_face' is unknown; known: difference with masking.where=face"):
        MaskingConfig(strategy="difference_face").validate()
    with pytest.raises(ValueError, match="known: body, face, both"):
        MaskingConfig(where="hand").validate()
    with pytest.raises(ValueError, match=r"masking\.noise=nan"):
        MaskingConfig(noise=float("nan")).validate()
    with pytest.raises(ValueError, match="between 0 and 1"):
        MaskingConfig(ratio=25.0).validate()


@pytest.mark.parametrize(
    ("strategy", "weight"),
    [
        ("attn", lambda clip: clip.attention),
        ("mst", lambda clip: 1 / clip.attention),
        ("clip", lambda clip: (clip.similarity - clip.similarity.min()) / np.ptp(clip.similarity)),
        ("difference", lambda clip: clip.weight),
    ],
)
def test_the_first_patch_falls_in_proportion_to_its_weight(strategy, weight):
    """Equation 4 of arXiv 2305.14577, for every strategy that has weights."""
    # Every patch a box of its own: a group is wanted by its weight, not by its weight times its size.
    rng = np.random.default_rng(1)
    few = N // 4
    soft = rng.uniform(0.1, 1, few).astype(np.float32)
    clip = patches(n=few, persons=(), track=np.arange(1, few + 1), weight=soft)
    draws = 10_000
    one = many(MaskingConfig(strategy=strategy, ratio=1.5 / few), clip, draws)
    assert (one.sum(axis=1) == 1).all()
    wanted = np.asarray(weight(clip), np.float64)
    expected, seen = draws * wanted / wanted.sum(), one.sum(axis=0)
    assert not seen[expected == 0].any()
    expected, seen = expected[expected > 0], seen[expected > 0]
    # Patches expected to fall a few times only are counted together: the test's distribution is asymptotic.
    rare = expected < 10
    expected, seen = (np.append(x[~rare], x[rare].sum() if rare.any() else []) for x in (expected, seen))
    assert scipy.stats.chisquare(seen, expected).pvalue > 1e-3


def test_without_noise_the_patches_with_the_most_attention_are_hidden():
    clip = patches()
    top = np.sort(np.argsort(np.asarray(clip.attention))[-20:])
    for name, expected in (("attn", top), ("mst", np.sort(np.argsort(np.asarray(clip.attention))[:20]))):
        found = mask(MaskingConfig(strategy=name, noise=0.0))
        np.testing.assert_array_equal(np.flatnonzero(found.hidden), expected)


def test_without_noise_boxes_of_equal_weight_are_still_drawn():
    config = MaskingConfig(strategy="difference", noise=0.0, ratio=0.1, whole_tracks=False)
    hidden = many(config, patches(), 400)
    assert (hidden.sum(axis=1) == 8).all()
    inside = np.r_[PERSON, OTHER]
    # Eight of the eighteen patches inside, each as often as any other: what the official code does.
    share = hidden[:, inside].mean(axis=0)
    assert hidden[:, inside].sum() == hidden.sum()
    np.testing.assert_allclose(share, 8 / 18, atol=4.5 * np.sqrt(8 / 18 * 10 / 18 / 400))


def test_clip_similarity_equal_everywhere_is_random_and_the_least_similar_patch_comes_last():
    flat = mask(MaskingConfig(strategy="clip"), similarity=np.full(N, 0.2, np.float32))
    assert flat.hidden.sum() == 20 and np.isfinite(np.asarray(flat.score)).all()
    found = mask(MaskingConfig(strategy="clip"))
    assert np.isneginf(found.score[np.argmin(patches().similarity)])


def test_a_unit_of_pools_hides_whole_pools_and_as_many_for_every_strategy():
    units = patch_units("pooled", FRAMES, GRID, 2)
    assert sorted(units.reshape(-1).tolist()) == list(range(N)) and units.shape == (20, 4)
    np.testing.assert_array_equal(units[0], [0, 1, 10, 11])
    for name in STRATEGIES:
        hidden = np.asarray(mask(MaskingConfig(strategy=name, unit="pooled")).hidden)[units]
        assert (hidden.all(axis=1) == hidden.any(axis=1)).all(), name
        assert hidden.all(axis=1).sum() == 5, name


def test_a_pool_is_wanted_as_its_most_wanted_patch_and_falls_with_its_track():
    # One patch of each of two pools, far apart, belongs to one person.
    track = np.zeros(N, np.int32)
    track[[0, 44]] = 9
    clip = patches(track=track, weight=(track > 0).astype(np.float32))
    hidden = mask(MaskingConfig(strategy="difference", unit="pooled", ratio=0.1), clip=clip).hidden
    assert set(np.flatnonzero(hidden)) == {0, 1, 10, 11, 44, 45, 54, 55}


def test_pools_with_padding_in_them_are_not_hidden():
    config = MaskingConfig(strategy="random", unit="pooled", ratio=0.9)
    hidden = mask(config, valid=45).hidden  # the second frame has half a row of real pixels
    assert hidden.sum() == 4 * 9 and not hidden[40:].any()


def test_scores_that_are_no_numbers_are_taken_only_to_fill_the_budget(monkeypatch):
    def odd(patches):
        score = jnp.where(jnp.arange(N) < 10, jnp.nan, -jnp.inf)
        return score.at[20:25].set(jnp.inf).at[30:40].set(0.0)

    monkeypatch.setitem(strategies.STRATEGIES, "odd", Strategy(strategies.each_patch, odd, ()))
    few = mask(MaskingConfig(strategy="odd", ratio=0.0626)).hidden
    assert np.flatnonzero(few).tolist() == [20, 21, 22, 23, 24]
    more = mask(MaskingConfig(strategy="odd", ratio=0.5)).hidden
    assert more.sum() == 40 and more[20:25].all() and more[30:40].all()


def assert_(holds: bool) -> None:
    if not holds:
        raise AssertionError  # without a word, as an assertion does


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda patches: jnp.zeros(3), r"scores of shape \(3,\).*for each of the 80 patches"),
        (lambda patches: patches.track, "scores of shape .* type int32"),
        (lambda patches: patches.nothing, r"failed \(AttributeError"),
        (lambda patches: assert_(False), r"failed \(AssertionError: \)"),
        (lambda patches: 1.0 if patches.y[0] > 0 else 0.0, r"failed \(TracerBoolConversionError"),
    ],
)
def test_a_strategy_that_gives_something_else_is_named(score, message, monkeypatch):
    monkeypatch.setitem(strategies.STRATEGIES, "broken", Strategy(strategies.each_patch, score, ()))
    with pytest.raises(StrategyError, match=f"masking.strategy='broken'.*{message}"):
        jax.jit(lambda clip: mask(MaskingConfig(strategy="broken"), clip=clip))(patches())


def test_groups_must_be_whole_numbers(monkeypatch):
    broken = Strategy(lambda patches: patches.y, strategies.equal, ())
    monkeypatch.setitem(strategies.STRATEGIES, "broken", broken)
    with pytest.raises(StrategyError, match="groups of shape .* type float32"):
        mask(MaskingConfig(strategy="broken"))


def test_what_is_no_strategy_says_why():
    with pytest.raises(StrategyError, match=r"cannot be imported \(ModuleNotFoundError.*PYTHONPATH"):
        find("nowhere.at_all:function")
    with pytest.raises(StrategyError, match=r"cannot be imported \(AttributeError"):
        find("mmdiff.masking.strategies:nothing")
    with pytest.raises(StrategyError, match="is a str: it must be a function"):
        find("mmdiff.masking.strategies:ENTRY_POINTS")


def test_a_name_may_say_where():
    config = with_strategy(MaskingConfig(), "difference_both")
    assert (config.strategy, config.where) == ("difference", "both")
    assert with_strategy(MaskingConfig(where="face"), "difference").where == "face"
    assert with_strategy(MaskingConfig(), "my_module:my_face").strategy == "my_module:my_face"


@pytest.mark.parametrize("percent", [2, 29, 35, 58, 99])  # as floats, products of 29 and 58 fall short of whole numbers
def test_the_budget_is_the_exact_share_rounded_down(percent):
    config = MaskingConfig(strategy="difference", ratio=percent / 100)
    for valid in range(N + 1):
        assert mask(config, valid=valid).hidden.sum() == percent * valid // 100


def test_a_ratio_that_hides_nothing_of_a_whole_clip_is_refused():
    with pytest.raises(StrategyError, match=r"masking\.ratio=0\.01 hides nothing of a clip of 80 units"):
        mask(MaskingConfig(ratio=0.01))


def test_a_track_whose_boxes_differ_in_weight_still_falls_whole():
    weight = np.zeros(N, np.float32)
    weight[PERSON], weight[OTHER] = 0.3, 0.6
    weight[PERSON.start] = 1.0  # one box of the track is called something else
    hidden = many(MaskingConfig(strategy="difference", ratio=0.15), patches(weight=weight), 100)
    whole = [hidden[:, place].all(axis=1) for place in (PERSON, OTHER)]
    assert (whole[0] | whole[1]).all() and whole[0].any() and whole[1].any()


def test_hidden_features_are_overwritten_independently_and_others_kept():
    features = jnp.ones((2, 5, 64))
    hidden = jnp.zeros((2, 5), bool).at[:, 1:3].set(True)
    out = hide(features, hidden, random_values(jax.random.split(jax.random.key(0), 2), (5, 64), jnp.float32))
    np.testing.assert_array_equal(out[~hidden], features[~hidden])
    values = np.asarray(out[hidden])
    assert len(np.unique(values.round(5))) == values.size
    assert abs(values.mean()) < 0.25 and values.std() == pytest.approx(1, abs=0.2)
