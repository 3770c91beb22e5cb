"""Heads learn what the features hold, and the epoch and the rate are chosen by the rule that is reported."""

import dataclasses

import numpy as np
import pytest

from mmdiff.objectives.question_answering import QuestionConfig
from mmdiff.probing import linear_probe
from mmdiff.probing.features import QuestionFeatures
from mmdiff.probing.linear_probe import LinearProbeConfig, SelectionError, hold_out, stopping, train_heads
from mmdiff.training.checkpoints import Progress

ASKED = QuestionConfig()


def questions(count, seed=0, known=True, per_record=4):
    """Four answers each, of which only the text feature knows the right one."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, count).astype(np.int32)
    rows = rng.normal(size=(count, 4, 2, 16))
    if known:
        rows[np.arange(count), label, 1, 0] += 3.0
    return QuestionFeatures(
        rows=rows.reshape(-1, 2, 16).astype(np.float16),
        candidates=np.arange(4 * count, dtype=np.int32).reshape(count, 4),
        label=label,
        id=np.array([f"q{i}" for i in range(count)]),
        group=np.array([f"record{i // per_record}" for i in range(count)]),
    )


def config(**options) -> LinearProbeConfig:
    return LinearProbeConfig(**{"seeds": 2, "batch_size": 20} | options)


@pytest.fixture(scope="module")
def outcome():
    return train_heads(questions(200), questions(400, seed=1), config(), ASKED)


def test_heads_learn_what_the_features_hold(outcome):
    audio, text, _ = outcome.correct.mean(axis=(0, 1))
    assert text > 0.9 and audio < 0.4
    assert outcome.correct.shape == (2, 400, 3) and outcome.train_questions == 200
    assert (outcome.answers == 4).all()


def test_one_learning_rate_is_chosen_for_all_seeds(outcome):
    assert [row["learning_rate"] for row in outcome.grid] == [1e-4, 1e-3, 1e-2]
    means = [np.mean(row["selection_accuracy"]) for row in outcome.grid]
    assert outcome.learning_rate == outcome.grid[int(np.argmax(means))]["learning_rate"]
    chosen = next(row for row in outcome.grid if row["learning_rate"] == outcome.learning_rate)
    # Chosen on validation: what chose is what is reported.
    np.testing.assert_allclose(chosen["selection_accuracy"], outcome.correct[:, :, 2].mean(axis=1))


def test_metrics_tell_every_epoch_of_every_lane_up_to_its_end(outcome):
    for seed in range(2):
        for row in outcome.grid:
            lane = [x for x in outcome.lines if (x["seed"], x["learning_rate"]) == (seed, row["learning_rate"])]
            joint = [x["joint"] for x in lane if x["split"] == "validation"]
            assert [x["step"] for x in lane if x["split"] == "train"] == list(range(1, len(joint) + 1))
            assert max(joint) == pytest.approx(row["selection_accuracy"][seed])
            best, last = stopping(np.array(joint), 5)
            assert last == len(joint) - 1
            if row["learning_rate"] == outcome.learning_rate:
                assert outcome.epoch[seed] == best + 1
                assert outcome.last_correct[seed, 2] == pytest.approx(joint[-1])
    assert {"loss", "audio", "text", "joint"} <= set(outcome.lines[0])


def test_seeds_differ_and_do_not_depend_on_how_many_there_are():
    few, many = (
        train_heads(questions(60, known=False), questions(90, seed=1, known=False), config(seeds=n, epochs=2), ASKED)
        for n in (1, 3)
    )
    assert (many.correct[0] != many.correct[1]).any()
    first = [line for line in many.lines if line["seed"] == 0]
    assert [line["joint"] for line in few.lines] == [line["joint"] for line in first]


@pytest.mark.parametrize(
    "accuracy, best, last",
    [
        ([0.1, 0.5, 0.5, 0.4, 0.5, 0.9], 1, 4),  # ties keep the earlier epoch; three bad ones end it before the best
        ([0.1, 0.2, 0.3, 0.4], 3, 3),
        ([0.4, 0.3, 0.3], 0, 2),
        ([0.4, 0.3, 0.3, 0.5, 0.1, 0.1, 0.1, 0.9], 3, 6),
    ],
)
def test_early_stopping_picks_the_right_epoch_as_the_training_loop_would(accuracy, best, last):
    assert stopping(np.array(accuracy), 2) == (best, last)
    progress = Progress()
    for step, share in enumerate(accuracy):
        progress.update(step, -share, 0.0)
        if progress.should_stop(2):
            break
    assert (progress.best_step, step) == (best, last)
    assert stopping(np.array(accuracy), 0)[1] == len(accuracy) - 1


def test_holding_out_never_splits_a_record():
    kept, held = hold_out(questions(200), 0.1)
    assert len(kept) + len(held) == 200 and len(held) == 20
    assert not set(kept.group) & set(held.group)
    turned = questions(200).chosen(np.arange(200)[::-1])
    assert set(hold_out(turned, 0.1)[1].group) == set(held.group)
    with pytest.raises(SelectionError, match="select_on=validation"):
        hold_out(questions(4), 0.1)


def test_selection_on_train_never_looks_at_validation():
    train, validation = questions(120), questions(90, seed=1)
    # The same questions with other right answers: whatever is chosen from them would change.
    wrong = dataclasses.replace(validation, label=(validation.label + 1) % 4)
    chosen = config(select_on="train")
    a, b = (train_heads(train, held, chosen, ASKED) for held in (validation, wrong))
    assert (a.epoch, a.learning_rate, a.grid) == (b.epoch, b.learning_rate, b.grid)
    assert a.correct[:, :, 2].mean() > 0.5 and b.correct[:, :, 2].mean() < 0.3
    assert a.train_questions == 120 - 12


def test_a_row_that_several_questions_offer_counts_for_each():
    features = questions(50)
    copied = dataclasses.replace(
        features, rows=features.rows[features.candidates].reshape(-1, 2, 16), candidates=features.candidates
    )
    order = np.random.default_rng(0).permutation(len(features.rows))
    shuffled = dataclasses.replace(
        features, rows=features.rows[order], candidates=np.argsort(order)[features.candidates].astype(np.int32)
    )
    a, b = (train_heads(x, x, config(epochs=2), ASKED) for x in (copied, shuffled))
    np.testing.assert_array_equal(a.correct, b.correct)


def test_the_official_projection_starts_every_seed_alike(monkeypatch):
    starts = [linear_probe.first_projection(16, seed, QuestionConfig(fixed_projection=True)) for seed in (0, 7)]
    expected = (np.random.RandomState(123456).randn(16, 1) * 0.01).astype(np.float32)
    for start in starts:
        np.testing.assert_array_equal(start, expected)
    assert (linear_probe.first_projection(16, 0, ASKED) != linear_probe.first_projection(16, 1, ASKED)).any()
