"""Features are computed once, shared by all that look at the same, and never stale, however a pass ended."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import questions
import tiny

from mmdiff.data.question_examples import question_example
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.models.reserve import MerlotReserve
from mmdiff.objectives.question_answering import QuestionAnswering, QuestionConfig
from mmdiff.probing import encoder, features
from mmdiff.probing.encoder import Encoder
from mmdiff.probing.features import compute_features, fingerprint, what_features_depend_on
from mmdiff.training import runs


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    train = [questions.repeating(i) for i in range(5)]
    train[3].segments.has_audio[:] = False
    return tiny.write_dataset(tmp_path_factory.mktemp("records"), train, [tiny.record(9)])


@pytest.fixture(scope="module")
def parts(records):
    """Data settings, tokenizer, model and parameters."""
    config = tiny.config(records)
    tokenizer = Tokenizer(config.data.tokenizer)
    sizes, params = runs.build_model(config.model, tokenizer, jax.random.key(0))
    return config.data, tokenizer, MerlotReserve(sizes), params


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "RECORDS_PER_SHARD", 2)


def run(parts, folder, devices=None, asked=None, at_once=4):
    data, tokenizer, model, params = parts
    frozen = Encoder(model, params, devices or jax.local_devices(), at_once)
    return compute_features(folder, "train", frozen, data, asked or QuestionConfig(), tokenizer, False)


@pytest.fixture(scope="module")
def first(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "pass"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "RECORDS_PER_SHARD", 2)
        return folder, *run(parts, folder)


def assert_same(found, wanted):
    """float16 of numbers equal but for float32 rounding: hardly one is rounded the other way."""
    found, wanted = (np.asarray(x, np.float16).astype(float) for x in (found, wanted))
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert (found != wanted).mean() < 0.01


def test_what_is_looked_at_twice_is_encoded_once(first):
    _, found, took = first
    # Of each of the five records three frames, under 6 + 1 questions of two segments; one record has no sound.
    assert (took["frames"], took["frames_per_question_pass"]) == (5 * 3, 5 * 7 * 2)
    assert (took["segments"], took["segments_per_question_pass"]) == (4 * 3, 4 * 7 * 2)
    # Six pairs offer four answers, and the same answers in another window are other candidates.
    assert (took["candidates"], took["distinct_candidates"]) == (5 * (6 * 2 + 3), 5 * (4 + 3))
    assert took["questions"] == took["computed_questions"] == len(found) == 5 * 7
    assert took["questions_per_second"] > 0
    assert found.rows.shape == (35, 2, 64) and found.rows.dtype == np.float16
    assert found.candidates.shape == (35, 3) and (found.candidates[:6, 2] == -1).all()
    assert found.candidates[:6, :2].tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert set(found.group) == {f"clip{i}.mp4" for i in range(5)}
    assert not set(found.id) & {f"u{i}" for i in range(5)}


def test_shared_features_are_those_of_each_question_by_itself(parts, first):
    data, tokenizer, model, params = parts
    _, found, _ = first
    objective = QuestionAnswering(model, QuestionConfig())
    size = (model.config.image_grid, model.config.patch_size)

    @jax.jit
    def features_of(batch):
        """Projections on each axis are the features themselves."""
        scores = jax.vmap(lambda axis: objective.scores(params | {"proj": {"kernel": axis[:, None]}}, batch))
        return scores(jnp.eye(64))[:, 0].transpose(2, 1, 0)  # [a, 2, d]

    by_id = {name: i for i, name in enumerate(found.id)}
    for number in (0, 3):  # with and without sound
        record = questions.repeating(number)
        record.segments.has_audio[:] = number != 3
        for question in (record.questions[4], record.questions[6]):
            batch = question_example(record, question, 3, data, *size, tokenizer, None)
            batch = jax.tree.map(lambda x: np.asarray(x)[None], batch)
            answers = len(question.answers)
            assert_same(found.rows[found.candidates[by_id[question.id]][:answers]], features_of(batch)[:answers])


def test_eight_devices_equal_one(parts, first, tmp_path):
    _, eight, _ = first
    one, _ = run(parts, tmp_path / "one", jax.local_devices()[:1])
    np.testing.assert_array_equal(one.candidates, eight.candidates)
    assert_same(one.rows, eight.rows)


def test_batches_and_banks_of_any_size_give_the_same(parts, first, tmp_path, monkeypatch):
    for module in (encoder, features):
        monkeypatch.setattr(module, "PLACES_PER_BANK", 4)
    monkeypatch.setattr(features, "RECORDS_PER_SHARD", 5)
    other, took = run(parts, tmp_path / "other", at_once=1)
    np.testing.assert_array_equal(other.candidates, first[1].candidates)
    assert_same(other.rows, first[1].rows)
    assert took["frames"] == first[2]["frames"]


class Killed(Exception):
    pass


def test_a_killed_pass_goes_on_at_the_first_missing_shard_and_ends_with_the_same_bytes(
    parts, first, tmp_path, monkeypatch
):
    whole, write, made = first[0], features.write_shard, []

    def write_two(path, shard):
        if len(made) == 2:
            path.parent.mkdir(exist_ok=True)
            path.with_name(path.name + ".unfinished").write_bytes(b"half")
            raise Killed
        made.append(path)
        write(path, shard)

    with monkeypatch.context() as patch:
        patch.setattr(features, "write_shard", write_two)
        with pytest.raises(Killed):
            run(parts, tmp_path / "pass")
    _, took = run(parts, tmp_path / "pass")
    assert took["computed_questions"] == 7  # of the last record: two shards of two lay there
    names = sorted(path.name for path in whole.iterdir())
    assert names == [f"train-0000{i}-of-00003.npz" for i in range(3)]
    assert all((tmp_path / "pass" / name).read_bytes() == (whole / name).read_bytes() for name in names)
    again, took = run(parts, tmp_path / "pass")
    assert took["computed_questions"] == 0 and took["questions_per_second"] is None
    np.testing.assert_array_equal(again.rows, first[1].rows)


def damaged(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        middle = len(content) // 4
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif how == "pickled":
        np.savez(path, rows=np.array([{}], object))
    elif how == "empty":
        path.write_bytes(b"")
    else:
        with np.load(path) as stored:
            arrays = dict(stored)
        np.savez(path, **arrays | {"candidates": arrays["candidates"] + 1000})


@pytest.mark.parametrize("how", ["cut", "flipped", "pickled", "empty", "out of range"])
def test_a_bad_shard_is_computed_again(parts, first, how, caplog):
    path = first[0] / "train-00001-of-00003.npz"
    before = path.read_bytes()
    damaged(path, how)
    found, took = run(parts, first[0])
    assert took["computed_questions"] == 14 and "no whole shard" in caplog.text
    assert path.read_bytes() == before
    np.testing.assert_array_equal(found.rows, first[1].rows)


def test_features_are_named_after_all_they_depend_on(parts, records, tmp_path):
    data, _, model, _ = parts
    asked, sizes = QuestionConfig(), model.config
    model_file = tmp_path / "model"
    model_file.write_bytes(b"one")

    def name(data=data, asked=asked, sizes=sizes, folder=records):
        settings = what_features_depend_on(data, asked, sizes)
        return fingerprint(model_file, str(folder), records / "tokenizer.json", *settings)

    names = [
        name(),
        name(data=dataclasses.replace(data, text_length=47)),
        name(data=dataclasses.replace(data, clip_question_span=False)),
        name(asked=QuestionConfig(attend_to_padding=True)),
        name(sizes=dataclasses.replace(sizes, image_grid=(6, 4))),
        name(folder=tiny.write_dataset(tmp_path / "other", [tiny.record(1)], [])),
    ]
    model_file.write_bytes(b"two")
    names.append(name())
    assert len(set(names)) == len(names)
    # What only training reads changes nothing.
    same = dataclasses.replace(data, augment=False), dataclasses.replace(sizes, remat=("joint",))
    assert name(data=same[0]) == name(sizes=same[1]) == names[-1]


def test_padding_is_seen_only_where_it_is_asked_for(parts, tmp_path):
    data, tokenizer, model, params = parts
    wider = dataclasses.replace(data, segments=3), tokenizer, model, params
    hidden, took = run(wider, tmp_path / "hidden")
    seen, _ = run(wider, tmp_path / "seen", asked=QuestionConfig(attend_to_padding=True))
    assert took["frames_per_question_pass"] == 5 * 7 * 2
    assert (hidden.rows != seen.rows).mean() > 0.5


def test_a_model_that_has_diverged_is_refused(parts, tmp_path):
    data, tokenizer, model, params = parts
    broken = dict(params, joint_transformer=jax.tree.map(lambda x: x * jnp.nan, params["joint_transformer"]))
    with pytest.raises(encoder.FeatureError, match="not finite"):
        run((data, tokenizer, model, broken), tmp_path)
