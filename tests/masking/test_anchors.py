"""Labels against anchors: by name, by meaning, found, and kept by a run."""

import dataclasses
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny
from text_encoders import write_text_encoder

from mmdiff.data.corpus import count_record_words, record_texts, words_of
from mmdiff.masking.anchors import AnchorError, Anchors, AnchorsConfig, open_anchors
from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.masking.tf_icf import TfIcfError
from mmdiff.models.pretrained import CheckpointError


def labelled(number, *labels):
    """A record whose first boxes have these labels; one of a name in capitals is of a person."""
    record = tiny.record(number)
    boxes = record.boxes
    kept = {field.name: getattr(boxes, field.name)[: len(labels)] for field in dataclasses.fields(boxes)}
    part = ["body" if label.istitle() else "object" for label in labels]
    return dataclasses.replace(record, boxes=type(boxes)(**kept | {"label": list(labels), "part": part}))


def write(folder, train, validation=()):
    return str(tiny.write_dataset(folder, list(train), list(validation)))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write(tmp_path_factory.mktemp("records"), [labelled(0, "laptop", "laptop", "dog"), labelled(1, "Penny")])


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    return write(tmp_path_factory.mktemp("objects"), [labelled(0, "laptop", "dog", "dog")])


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return str(write_text_encoder(tmp_path_factory.mktemp("encoders") / "tiny"))


@pytest.fixture
def unigrams(tmp_path):
    path = tmp_path / "unigrams.txt"
    path.write_text("a\t500\nis\t300\nwhat\t100\nit\t50\nhello\t40\nthere\t10\n")
    return str(path)


def opened(records, kept=None, **fields):
    config = AnchorsConfig(**fields)
    config.validate()
    return open_anchors(config, records, kept, progress_bar=False)


def test_the_anchor_person_means_every_part_of_a_person_whatever_it_is_called():
    weight = Anchors(["person"])
    assert weight("Sheldon", "body") == weight("Penny", "face") == weight("Person", "object") == 1
    assert weight("laptop", "object") == weight("Penny", "object") == 0


def test_any_label_can_be_an_anchor_in_any_case(records):
    weight = opened(records, words=("penny", "Laptop"))
    assert weight("Penny", "body") == weight("laptop", "object") == 1
    assert weight("Leonard", "body") == weight("dog", "object") == 0


def test_a_label_has_the_cosine_of_the_nearest_anchor(records, encoder_folder):
    weight = opened(records, words=("dog", "man"), text_encoder=encoder_folder)
    dog, man, laptop, person, penny = load_text_encoder(encoder_folder).embed(
        ["dog", "man", "laptop", "person", "Penny"]
    )
    assert weight("dog", "object") == weight("DOG", "object") == 1
    assert weight("laptop", "object") == pytest.approx(max(laptop @ dog, laptop @ man, 0), abs=1e-5)
    own, as_person = max(penny @ dog, penny @ man, 0), max(person @ dog, person @ man, 0)
    assert weight("Penny", "object") == pytest.approx(own, abs=1e-5)
    assert weight("Penny", "body") == pytest.approx(max(own, as_person), abs=1e-5)
    assert abs(own - as_person) > 1e-3


def test_with_an_encoder_a_person_is_still_the_anchor_person(records, encoder_folder):
    weight = opened(records, text_encoder=encoder_folder)
    assert weight("Penny", "body") == weight("Penny", "face") == 1 > weight("Penny", "object")


def test_a_cosine_below_zero_counts_as_zero(records, encoder_folder):
    encoder = load_text_encoder(encoder_folder)
    names = ["laptop", "dog", "man", "penny", "person", "a", "big"]
    vectors = encoder.embed(names)
    cosines = vectors @ vectors.T
    label, anchor = np.unravel_index(cosines.argmin(), cosines.shape)
    assert cosines[label, anchor] < -0.05
    assert opened(records, words=(names[anchor],), text_encoder=encoder_folder)(names[label], "object") == 0


def test_less_than_the_least_similarity_counts_as_zero(records, encoder_folder):
    weight = opened(records, words=("dog",), text_encoder=encoder_folder)
    cosines = sorted(set(weight.to_json()["labels"].values()) - {0.0})
    assert len(cosines) > 2
    some = opened(records, words=("dog",), text_encoder=encoder_folder, min_similarity=(cosines[0] + cosines[1]) / 2)
    assert sorted(set(some.to_json()["labels"].values()) - {0.0}) == pytest.approx(cosines[1:], abs=1e-5)


def test_with_the_centroid_an_anchor_itself_may_count_less_than_one(records, encoder_folder):
    weight = opened(records, words=("dog", "man"), text_encoder=encoder_folder, compare="centroid")
    dog, man, laptop = load_text_encoder(encoder_folder).embed(["dog", "man", "laptop"])
    mean = (dog + man) / np.linalg.norm(dog + man)
    assert 0 < weight("dog", "object") < 0.99
    assert weight("dog", "object") == pytest.approx(dog @ mean, abs=1e-5)
    assert weight("laptop", "object") == pytest.approx(max(laptop @ mean, 0), abs=1e-5)


def test_labels_are_embedded_together_at_the_start_and_new_ones_once(records, encoder_folder):
    inner, calls = load_text_encoder(encoder_folder), []

    class Counting:
        def embed(self, texts):
            calls.append(list(texts))
            return inner.embed(texts)

    anchors = Anchors(["dog"], encoder=Counting)
    anchors.learn(["laptop", "laptop", "person"])
    assert calls == [[" dog", " laptop", " person"]]  # as they stand in running text
    start = threading.Barrier(8)

    def ask(_):
        start.wait()
        return anchors("a big man", "face")

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(ask, range(8)))) == 1
    assert calls[1:] == [[" dog", " a big man"]]


def test_records_that_do_not_list_their_labels_are_compared_when_met(records, encoder_folder, tmp_path):
    older = write(tmp_path / "older", [labelled(0, "dog")])
    (info,) = (tmp_path / "older").rglob("metadata.json")
    info.write_text(json.dumps({"dataset": "older"}))
    weight = opened(older, words=("laptop",), text_encoder=encoder_folder)
    assert list(weight.to_json()["labels"]) == ["person"]
    known = opened(records, words=("laptop",), text_encoder=encoder_folder)
    assert weight("dog", "object") == pytest.approx(known("dog", "object"), abs=1e-5)
    assert set(weight.to_json()["labels"]) == {"person", "dog"}


def test_anchors_that_match_no_box_are_an_error(objects):
    message = r"no box of .* is labelled 'person' or 'cat'; its commonest labels are dog, laptop: name some as anchors"
    with pytest.raises(AnchorError, match=message):
        opened(objects, words=("person", "cat"))


def test_labels_that_are_all_unlike_the_anchors_are_an_error(objects, encoder_folder):
    message = r"labelled 'person' or alike; its commonest labels are dog, laptop: lower anchors.min_similarity=1.0"
    with pytest.raises(AnchorError, match=message):
        opened(objects, text_encoder=encoder_folder, min_similarity=1.0)


def test_anchors_that_match_no_box_are_warned_of_where_nothing_needs_them(objects, caplog):
    open_anchors(AnchorsConfig(), objects, None, where=None)
    assert "is labelled 'person'" in caplog.text


def test_boxes_elsewhere_than_aimed_at_are_an_error(tmp_path):
    bodies = write(tmp_path, [labelled(0, "Person")])
    message = r"no face box of .* is labelled 'person'; its commonest labels are Person \(body\): aim elsewhere"
    with pytest.raises(AnchorError, match=message):
        open_anchors(AnchorsConfig(), bodies, where="face")
    for where in ("body", "both"):
        assert open_anchors(AnchorsConfig(), bodies, where=where)("person", "body") == 1


@pytest.mark.parametrize("words", [5, None, (1, 2), ("a", None), (("a",),)])
def test_words_that_are_no_words_are_refused(words):
    for name in ("words", "stop_words"):
        config = AnchorsConfig()
        setattr(config, name, words)  # as the command line does
        with pytest.raises(ValueError, match=rf"anchors\.{name}=.* must be labels"):
            config.validate()


def test_an_anchor_that_matches_no_box_beside_others_that_do_is_warned_of(records, caplog):
    opened(records, words=("person", "cat", "dog", "Cat"))
    assert "is labelled 'cat'" in caplog.text
    assert "'person'" not in caplog.text and "'dog'" not in caplog.text


def test_records_without_any_box_are_warned_of(tmp_path, encoder_folder, caplog):
    empty = write(tmp_path, [tiny.record(0, boxes=False)])
    opened(empty)
    opened(empty, text_encoder=encoder_folder)
    assert caplog.text.count("holds no boxes at all") == 2


def test_words_are_in_lower_case_without_possessives_and_contractions_stay_whole():
    assert words_of("Sheldon's LAPTOP, isn’t it? X-ray_2 <<7>>") == [
        "sheldon",
        "laptop",
        "isn’t",
        "it",
        "x",
        "ray",
        "2",
        "7",
    ]


def spoken(starts, subtitles, questions=("what is it",)):
    record = tiny.record(0, segments=len(starts))
    start = np.array(starts, np.float32)
    asked = [dataclasses.replace(record.questions[0], text=text) for text in questions]
    segments = dataclasses.replace(record.segments, start=start, end=start + np.float32(14 / 3), subtitle=subtitles)
    return dataclasses.replace(record, segments=segments, questions=asked)


def test_what_overlapping_segments_share_is_said_once():
    # Two rows of segments, as windows around two spans leave them: 0 and 14/3 s, and 2 s and 20/3 s.
    record = spoken([0, 14 / 3, 2, 20 / 3], ["one two three", "four five", "three four", "five six"])
    assert record_texts(record)[0] == "one two three four five six"


def test_what_is_said_twice_in_a_row_is_said_twice():
    assert record_texts(spoken([0, 14 / 3], ["no no", "no no"]))[0] == "no no no no"


def test_a_question_that_was_made_into_pairs_is_asked_once_and_answers_are_not_read():
    texts = record_texts(spoken([0], [""], ["who is it", "who is it", "what is it"]))
    assert texts == ["", "who is it", "what is it"]


def test_only_the_training_split_is_read(tmp_path):
    folder = write(tmp_path, [spoken([0], ["one"])], [spoken([0], ["two"])])
    assert count_record_words(folder, progress_bar=False) == {"one": 1, "what": 1, "is": 1, "it": 1}


FINDING = {"find": 2, "min_count": 2, "min_length": 4}


def test_found_words_are_anchors_beside_the_given(records, unigrams, caplog):
    caplog.set_level(logging.INFO)
    anchors = opened(records, unigrams=unigrams, **FINDING)
    assert anchors.words == ("person", "there", "hello")  # said twice each; "there" is rarer in general
    there = anchors.found[0]
    assert (there.count, there.general_count) == (2, 10)
    assert there.tf_icf == pytest.approx((2 / 14) / (10 / 1000))
    assert "anchors found by TF-ICF: there (2 times, 14.3), hello (2 times, 3.57)" in caplog.text
    given = opened(records, unigrams=unigrams, words=("person", "There"), **FINDING | {"find": 1})
    assert given.words == ("person", "There", "hello")


def test_words_that_cannot_be_found_are_an_error(records, unigrams, tmp_path):
    with pytest.raises(TfIcfError, match="lower min_count"):
        opened(records, unigrams=unigrams, find=1, min_count=3)
    with pytest.raises(TfIcfError, match="no word counts at"):
        opened(records, unigrams=str(tmp_path / "none.txt"), find=1)
    with pytest.raises(CheckpointError, match="no folder of a text encoder"):
        opened(records, text_encoder=str(tmp_path / "none"))


def kept_file(path, anchors):
    path.write_text(json.dumps(anchors.to_json()))
    return path


def test_what_a_run_kept_is_opened_without_records_unigrams_or_weights(records, unigrams, encoder_folder, tmp_path):
    first = opened(records, unigrams=unigrams, text_encoder=encoder_folder, **FINDING)
    kept = kept_file(tmp_path / "anchors.json", first)
    moved = AnchorsConfig(unigrams="gone", text_encoder=str(tmp_path / "gone"), **FINDING)
    again = open_anchors(moved, "gone", kept)
    assert again.to_json() == first.to_json()
    assert again.words == first.words and again.found == first.found
    assert again("laptop", "object") == first("laptop", "object")
    with pytest.raises(CheckpointError, match="no folder of a text encoder"):
        again("a label that was not there", "object")


def test_what_a_run_keeps_names_the_encoder_and_every_label(records, encoder_folder):
    stored = opened(records, words=("dog",), text_encoder=encoder_folder).to_json()
    assert stored["text_encoder"] == {"name": "tiny", "digest": load_text_encoder(encoder_folder).digest}
    assert set(stored["labels"]) == {"laptop", "dog", "Penny", "person"}
    assert next(iter(stored["labels"].items())) == ("dog", 1.0)
    assert stored["compare"] == "nearest" and stored["found"] == []


def test_a_new_label_is_compared_by_the_same_encoder_or_not_at_all(records, encoder_folder, tmp_path):
    first = opened(records, words=("dog",), text_encoder=encoder_folder)
    kept = kept_file(tmp_path / "anchors.json", first)
    other = str(write_text_encoder(tmp_path / "other", seed=1))
    again = opened("gone", kept, words=("dog",), text_encoder=encoder_folder)
    assert again("big man", "object") == pytest.approx(first("big man", "object"), abs=1e-5)
    with pytest.raises(AnchorError, match="no longer holds the text encoder tiny"):
        opened("gone", kept, text_encoder=other)("big man", "object")
    with pytest.raises(AnchorError, match="was made with the text encoder tiny: give its folder"):
        opened("gone", kept)
    with pytest.raises(AnchorError, match="was made with no text encoder: leave out"):
        opened("gone", kept_file(tmp_path / "plain.json", Anchors(["dog"])), text_encoder=other)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"words": [], "found": [], "compare": "nearest", "labels": {}}'])
def test_a_kept_file_that_is_damaged_is_named(tmp_path, text):
    (tmp_path / "anchors.json").write_text(text)
    with pytest.raises(AnchorError, match="anchors.json is not what a run keeps of its anchors"):
        opened("gone", tmp_path / "anchors.json")


def test_a_run_that_kept_nothing_yet_searches(records, tmp_path):
    assert opened(records, tmp_path / "anchors.json").words == ("person",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ("person,hand",)}, r"anchors.words=\('person,hand',\) must be labels"),
        ({"words": (" ",)}, "anchors.words=.* must be labels"),
        ({"stop_words": ("",)}, "anchors.stop_words=.* must be labels"),
        ({"words": ()}, "anchors.words=.* leaves no anchors"),
        ({"find": -1}, "anchors.find=-1 must be at least 0"),
        ({"pool": "max"}, "anchors.pool='max' is unknown; known: mean, pooler"),
        ({"shortlist": -1}, "anchors.shortlist=-1 must be at least 0"),
        ({"min_count": 0}, "anchors.min_count=0 must be at least 1"),
        ({"min_length": 0}, "anchors.min_length=0 must be at least 1"),
        ({"floor": -1}, "anchors.floor=-1 must be at least 0"),
        ({"min_similarity": 1.5}, "anchors.min_similarity=1.5 must lie from 0 to 1"),
        ({"compare": "mean"}, "anchors.compare='mean' is unknown; known: nearest, centroid"),
        ({"compare": "centroid"}, "anchors.compare='centroid' needs anchors.text_encoder"),
    ],
)
def test_a_field_that_means_nothing_is_named_with_what_is_allowed(fields, message):
    with pytest.raises(ValueError, match=message):
        AnchorsConfig(**fields).validate()


def test_no_given_words_are_needed_where_words_are_found(records, unigrams, caplog):
    with pytest.raises(AnchorError, match="is labelled 'there' or 'hello'"):
        opened(records, words=(), unigrams=unigrams, **FINDING)
