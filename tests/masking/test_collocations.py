"""Runs of words that belong together: their scores by hand, which are kept, and where they are in a text."""

import itertools
import math
import time

import numpy as np
import pytest

from mmdiff.data.text_corpora import read_corpus
from mmdiff.data.text_examples import words_of_text
from mmdiff.masking.collocations import Collocations, CollocationsConfig, learn_collocations, ngram_numbers

EVERYTHING = {"min_count": 1, "best": 1.0, "power": 2}


def learnt(sentences, **fields):
    config = CollocationsConfig(**EVERYTHING | fields)
    config.validate()
    return learn_collocations([sentence.split() for sentence in sentences], config)


def test_the_score_of_two_words_is_their_own_probability_squared_over_those_of_the_words():
    scores = learnt(["new york", "new york", "new car"]).scores
    # Six words, three pairs.
    assert scores["new", "york"] == pytest.approx(math.log((2 / 3) ** 2 / ((3 / 6) * (2 / 6))))
    assert scores["new", "car"] == pytest.approx(math.log((1 / 3) ** 2 / ((3 / 6) * (1 / 6))))


def test_the_power_one_is_the_equation_of_the_paper():
    scores = learnt(["new york", "new york", "new car"], power=1).scores
    assert scores["new", "york"] == pytest.approx(math.log((2 / 3) / ((3 / 6) * (2 / 6))))


def test_a_longer_run_has_the_least_score_of_all_ways_to_cut_it():
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(list("abcd"), size=9)) for _ in range(40)]
    scores = learnt(sentences).scores
    stretches = [sentence.split() for sentence in sentences]

    def p(run):
        places = [stretch[i : i + len(run)] for stretch in stretches for i in range(len(stretch) - len(run) + 1)]
        return sum(place == list(run) for place in places) / len(places)

    for run in [run for run in scores if len(run) > 2][::37]:
        n, least = len(run), math.inf
        for cuts in itertools.chain.from_iterable(itertools.combinations(range(1, n), k) for k in range(1, n)):
            parts = [run[i:j] for i, j in itertools.pairwise((0, *cuts, n))]
            least = min(least, math.log(p(run) ** 2 / math.prod(p(part) for part in parts)))
        assert scores[run] == pytest.approx(least)


def test_runs_must_occur_often_enough_and_end_at_punctuation_and_markers():
    collocations = learnt(["a b , c d", "A b << c d", "a b"], min_count=2)
    assert set(collocations.scores) == {("a", "b"), ("c", "d")}
    assert set(learnt(["a b , c d", "A b << c d", "a b"], min_count=3).scores) == {("a", "b")}


def test_half_of_the_vocabulary_is_of_two_words_a_quarter_of_three_an_eighth_each_of_four_and_five():
    rng = np.random.default_rng(1)
    sentences = [" ".join(rng.choice(list("abcdefgh"), size=30)) for _ in range(60)]
    sizes = [len(run) for run in learnt(sentences, vocabulary=40).scores]
    assert [sizes.count(length) for length in (2, 3, 4, 5)] == [20, 10, 5, 5]
    assert [len(run) for run in learnt(sentences, best=0.25).scores].count(2) == 16  # of all 64 pairs


def test_of_equal_runs_the_commoner_is_kept_and_then_the_alphabet_decides():
    kept = learnt(["b a", "d c", "f e"], best=0.5).scores
    assert set(kept) == {("b", "a"), ("d", "c")}
    assert kept == learnt(["f e", "d c", "b a"], best=0.5).scores


NUMBERS = Collocations(
    {("new", "york"): 0.0, ("york", "city"): 0.0, ("new", "york", "city"): 0.0, ("city", "hall"): 0.0, ("x", "x"): 0.0}
)


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("the new york city hall", [0, 1, 1, 1, 0]),  # the longest first
        ("York City Hall", [1, 1, 0]),  # then what begins earlier
        ("x x x", [1, 1, 0]),
        ("x x x x", [1, 1, 2, 2]),
        ("city hall of new york", [1, 1, 0, 2, 2]),
        ("new , york", [0, 0, 0]),
        ("", []),
    ],
)
def test_the_runs_of_a_text_are_numbered_in_its_order_and_never_overlap(words, numbers):
    assert ngram_numbers(words.split(), NUMBERS) == numbers
    assert NUMBERS(words.split()) == numbers


@pytest.mark.parametrize("fields", [{"min_count": 0}, {"vocabulary": 0}, {"power": 0}, {"best": 0.0}, {"best": 1.5}])
def test_a_field_that_means_nothing_is_named(fields):
    with pytest.raises(ValueError, match=f"collocations.{next(iter(fields))}="):
        CollocationsConfig(**fields).validate()


def test_no_sentences_have_no_runs():
    assert learnt([]).scores == {}
    assert learnt(["one", ", ,"]).scores == {}


def test_names_and_terms_of_a_real_corpus_are_found_and_numbered_in_no_time(shared_data):
    texts = read_corpus(shared_data / "text_classification/citation_intent").splits["train"]
    sentences = [words_of_text(text.text) for text in texts]
    collocations = learn_collocations(sentences, CollocationsConfig())
    expected = [("natural", "language", "processing"), ("named", "entity"), ("och", "and", "ney"), ("et", "al")]
    assert all(run in collocations.scores for run in expected)
    assert ("of", "the") not in collocations.scores
    start = time.perf_counter()
    numbers = [ngram_numbers(words, collocations) for words in sentences]
    assert time.perf_counter() - start < 5
    assert 0.05 < np.mean([number > 0 for row in numbers for number in row]) < 0.3
