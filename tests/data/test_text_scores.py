"""Scores are scikit-learn's and strict; and texts that a model has seen in training are found."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from mmdiff.data.text_corpora import Text, read_corpus
from mmdiff.data.text_scores import score_classes, score_entities
from mmdiff.probing.text_duplicates import documents_of, same_text, seen_in

LABELS = ("a", "b", "c", "d")


def test_scores_of_classes_are_scikit_learns():
    rng = np.random.default_rng(0)
    gold, told = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    found = score_classes(gold, told, LABELS)
    assert found.accuracy == found.micro_f1 == pytest.approx(accuracy_score(gold, told))
    assert found.micro_f1 == pytest.approx(f1_score(gold, told, average="micro"))
    assert found.macro_f1 == pytest.approx(f1_score(gold, told, average="macro"))
    assert [found.per_label[name].f1 for name in LABELS] == pytest.approx(list(f1_score(gold, told, average=None)))
    assert [found.per_label[name].support for name in LABELS] == np.bincount(gold).tolist()


def test_macro_f1_is_over_the_classes_that_are_there():
    gold = np.array([0, 0, 1, 1])
    right = score_classes(gold, gold, LABELS)
    assert right.macro_f1 == 1.0
    # Telling a class that is not there is wrong once, not a class of its own.
    told = score_classes(gold, np.array([0, 3, 1, 1]), LABELS)
    assert told.macro_f1 == pytest.approx((2 / 3 + 1) / 2) and told.per_label["d"].support == 0


def test_an_entity_counts_only_whole_and_with_its_type():
    gold = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"]]
    told = [["B-X", "O", "O", "B-Y"], ["O", "B-X"]]
    found = score_entities(gold, told)
    assert found.per_label["X"] == (0.5, 0.5, 0.5, 2) and found.per_label["Y"].f1 == 1.0
    assert found.micro_f1 == pytest.approx(2 * 2 / (3 + 3)) and found.macro_f1 == pytest.approx(0.75)
    assert found.accuracy == pytest.approx(5 / 6)
    assert score_entities(gold, [["B-Y", "I-Y", "O", "B-Y"], ["O", "O"]]).per_label["X"].f1 == 0.0


def test_an_inside_tag_that_nothing_opened_is_no_entity():
    assert score_entities([["B-X", "I-X"]], [["I-X", "I-X"]]).micro_f1 == 0.0
    assert score_entities([["O", "O"]], [["O", "O"]]) == (1.0, 0.0, 0.0, {})


def test_case_space_and_markers_tell_no_texts_apart():
    assert same_text("The << X-ray >>  binds\n[[ Y ]].") == same_text("the x-ray BINDS y .")
    assert seen_in(["a b"], ["A  B", "a bc", "[[ a ]] b"]).tolist() == [True, False, True]
    texts = [
        Text(f"t:{i}", said, "x", None, None) for i, said in enumerate(["[[ a ]] << b >>", "c", "<< a >> [[ b ]]"])
    ]
    assert documents_of(texts).tolist() == ["t:0", "t:1", "t:0"]
    assert documents_of([text._replace(document="d") for text in texts]).tolist() == ["d"] * 3


@pytest.mark.parametrize(
    ("name", "count", "of"), [("citation_intent", 52, 139), ("chemprot", 4, 3469), ("sci-cite", 0, 1861)]
)
def test_texts_of_the_real_test_splits_that_training_holds(shared_data, name, count, of):
    corpus = read_corpus(shared_data / "text_classification" / name)
    train, test = ([text.text for text in corpus.splits[split]] for split in ("train", "test"))
    assert (int(seen_in(train, test).sum()), len(test)) == (count, of)
