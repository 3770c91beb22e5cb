"""The loss of classification: over what is asked, whatever the padding and the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from text_encoders import drawn_params

from mmdiff.data.loader import stack
from mmdiff.data.text_batches import padded
from mmdiff.data.text_tasks import AskedText
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel, parts_of
from mmdiff.objectives.text_classification import TextClassification
from mmdiff.training.train_step import make_gradient

SIZES = TextEncoderConfig(
    vocab_size=30, hidden_size=16, layers=2, heads=2, intermediate_size=32, positions=20, token_types=2, dropout=0.3
)
ZERO = jnp.zeros((), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def loss_of(objective: TextClassification, params: dict, rows: AskedText, key: int = 0, step: int = 0):
    """What the objective gives, as one program for all keys and steps."""
    return objective(params, rows, jax.random.key(key), jnp.asarray(step, jnp.int32))


def example(number: int, length: int, every_token: bool) -> AskedText:
    rng = np.random.default_rng(number)
    label = np.zeros(length, np.int32)
    label[slice(1, -1) if every_token else slice(0, 1)] = rng.integers(1, 4, length - 2 if every_token else 1)
    return AskedText(
        np.int32(number), rng.integers(1, 30, length).astype(np.int32), np.ones(length, bool), label, np.int32(0)
    )


def batch(lengths: list[int], to: int, every_token: bool, empty: int = 0) -> AskedText:
    rows = [padded(example(i, length, every_token), to) for i, length in enumerate(lengths)]
    return stack(rows + [jax.tree.map(np.zeros_like, rows[0])] * empty)


@pytest.fixture(scope="module", params=["sequence", "token"])
def objective(request):
    head = request.param
    params = drawn_params(SIZES, jax.random.key(1), parts_of(SIZES, head), 3, head)
    # Larger than at first: scores that differ.
    params = jax.tree.map(lambda x: jnp.asarray(np.asarray(x) * 3) if x.ndim > 1 else x, params)
    return TextClassification(TextModel(SIZES, 3, head)), params


def test_the_loss_does_not_depend_on_padding_or_empty_texts(objective):
    objective, params = objective
    measured, tokens = objective.without_dropout(), objective.model.head == "token"
    close = loss_of(measured, params, batch([5, 7, 9], 9, tokens))
    wide = loss_of(measured, params, batch([5, 7, 9], 16, tokens, empty=5))
    assert close[0] == pytest.approx(float(wide[0]), rel=1e-5) and close[1]["accuracy"] == wide[1]["accuracy"]
    assert objective.examples(batch([5, 7, 9], 16, tokens, empty=5), jax.random.key(0), jnp.zeros((), jnp.int32)) == (
        15 if tokens else 3
    )
    nothing = jax.tree.map(np.zeros_like, batch([5, 7, 9], 9, tokens))
    assert loss_of(measured, params, nothing)[0] == 0


def test_it_is_the_mean_cross_entropy_of_what_is_asked(objective):
    objective, params = objective
    tokens = objective.model.head == "token"
    rows = batch([6, 8], 8, tokens)
    loss, found = loss_of(objective.without_dropout(), params, rows)
    log_p = jax.jit(lambda params: jax.nn.log_softmax(objective.logits(params, rows)))(params)
    label = np.asarray(objective.asked(rows))
    places = np.argwhere(label > 0)
    wanted = [-float(log_p[row, place, label[row, place] - 1]) for row, place in places]
    assert float(loss) == pytest.approx(np.mean(wanted), rel=1e-5) and len(wanted) == (10 if tokens else 2)
    assert found["number"].tolist() == [0, 1] and found["asked"].sum() == len(wanted)
    right = [int(found["predicted"][row, place]) == label[row, place] - 1 for row, place in places]
    assert float(found["accuracy"]) == pytest.approx(np.mean(right))


def test_parts_of_a_batch_give_its_gradient(objective):
    objective, params = objective
    tokens = objective.model.head == "token"
    measured, rows = objective.without_dropout(), batch([5, 9, 7, 6], 9, tokens)
    # `predicted` of a part cannot be averaged: training has none.
    plain = TextClassification(measured.model.clone(config=SIZES._replace(dropout=0.0)))
    whole, parts = (jax.jit(make_gradient(plain, n))(params, rows, jax.random.key(0), ZERO)[0] for n in (1, 2))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), whole, parts)


def test_dropout_is_drawn_from_key_and_step_and_only_in_training(objective):
    objective, params = objective
    rows = batch([6, 8], 8, objective.model.head == "token")

    def loss(which, key: int, step: int) -> float:
        return float(loss_of(which, params, rows, key, step)[0])

    assert loss(objective, 0, 0) == loss(objective, 0, 0)
    assert len({loss(objective, 0, 0), loss(objective, 1, 0), loss(objective, 0, 1)}) == 3
    other = rows._replace(seed=rows.seed + 1)
    assert float(loss_of(objective, params, other, 0, 0)[0]) != loss(objective, 0, 0)
    measured = objective.without_dropout()
    assert loss(measured, 0, 0) == loss(measured, 1, 1)
    assert set(loss_of(objective, params, rows, 0, 0)[1]) == {"loss", "accuracy"}
