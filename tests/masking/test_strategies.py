"""What the rows of the table hide, and what each option of a masking configuration changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmdiff.masking.hiding import hide, random_values
from mmdiff.masking.strategies import MaskingConfig, Patches, mask_patches

N = 80
PERSON = slice(10, 22)  # twelve patches of one track
OTHER = slice(40, 46)  # six of another


def patches(valid: int = N, persons=(PERSON, OTHER)) -> Patches:
    track, weight = np.zeros(N, np.int32), np.zeros(N, np.float32)
    for number, place in enumerate(persons, start=1):
        track[place], weight[place] = number, 1.0
    return Patches(jnp.asarray(track), jnp.asarray(weight), jnp.arange(N) < valid)


def mask(config: MaskingConfig, seed: int = 0, **options):
    return mask_patches(jax.random.key(seed), patches(**options), config)


@pytest.mark.parametrize("strategy", ["random", "difference"])
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
    hidden = np.stack([mask(MaskingConfig(strategy="difference", ratio=0.15), seed).hidden for seed in range(20)])
    whole = hidden[:, PERSON].all(axis=1) | hidden[:, OTHER].all(axis=1)
    assert whole.all() and not hidden[:, :10].any()
    assert hidden[:, PERSON].all(axis=1).any() and hidden[:, OTHER].all(axis=1).any()


def test_alpha_caps_the_share_of_persons():
    config = MaskingConfig(strategy="difference", alpha=0.5)
    inside = [int((m := mask(config, seed).hidden)[PERSON].sum() + m[OTHER].sum()) for seed in range(200)]
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
    track = jnp.zeros(2016, jnp.int32).at[:inside].set(1)
    clip = Patches(track, (track > 0).astype(jnp.float32), jnp.ones(2016, bool))
    config = MaskingConfig(strategy="difference", drop_by_rounding=True)
    found = jax.jit(lambda key: mask_patches(key, clip, config))(jax.random.key(0))
    assert found.scored.sum() == 503 and found.hidden[-1]
    assert found.hidden.sum() == 503 + int(~found.scored[-1])


def test_unknown_values_name_the_known_ones():
    with pytest.raises(ValueError, match="known: random, difference"):
        MaskingConfig(strategy="differnce").validate()
    with pytest.raises(ValueError, match="between 0 and 1"):
        MaskingConfig(ratio=25.0).validate()


def test_hidden_features_are_overwritten_independently_and_others_kept():
    features = jnp.ones((2, 5, 64))
    hidden = jnp.zeros((2, 5), bool).at[:, 1:3].set(True)
    out = hide(features, hidden, random_values(jax.random.split(jax.random.key(0), 2), (5, 64), jnp.float32))
    np.testing.assert_array_equal(out[~hidden], features[~hidden])
    values = np.asarray(out[hidden])
    assert len(np.unique(values.round(5))) == values.size
    assert abs(values.mean()) < 0.25 and values.std() == pytest.approx(1, abs=0.2)
