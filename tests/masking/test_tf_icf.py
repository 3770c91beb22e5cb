"""TF-ICF by hand, on a real corpus, and with files that are no word counts."""

import gzip
import json

import pytest

from mmdiff.data.corpus import count_words
from mmdiff.masking.tf_icf import (
    COMMON,
    FoundWord,
    TfIcfError,
    WordRules,
    common_words_warning,
    find_words,
    read_general,
    read_unigrams,
    tf_icf,
)

ALL = WordRules(shortlist=0, min_count=1, min_length=1, alphabetic=False, stop_words=(), floor=0)
COUNTS = {"the": 60, "parser": 30, "x1": 5, "roth": 5}
GENERAL = {"the": 9_000, "parser": 10, "a": 990}


def words(rules, how_many=10, **more):
    return [word.word for word in find_words(COUNTS, GENERAL, how_many, rules, **more)]


def test_the_score_is_the_ratio_of_relative_frequencies():
    scores = tf_icf(COUNTS, GENERAL, floor=20)
    assert scores["the"] == pytest.approx((60 / 100) / (9_000 / 10_000))
    assert scores["parser"] == pytest.approx((30 / 100) / (20 / 10_000))  # the floor is higher than its count
    assert scores["roth"] == pytest.approx((5 / 100) / (20 / 10_000))


def test_without_a_floor_a_word_that_is_not_listed_counts_as_the_rarest():
    assert tf_icf(COUNTS, GENERAL, floor=0)["roth"] == pytest.approx((5 / 100) / (10 / 10_000))


def test_the_best_come_first_with_their_counts():
    best, second = find_words(COUNTS, GENERAL, 2, ALL)
    assert best == FoundWord("parser", 30, 10, pytest.approx(300))
    assert second == FoundWord("roth", 5, 0, pytest.approx(50))  # before x1, which scores the same, by the alphabet


def test_each_rule_leaves_words_out():
    assert words(ALL) == ["parser", "roth", "x1", "the"]
    assert words(ALL._replace(min_count=6)) == ["parser", "the"]
    assert words(ALL._replace(min_length=4)) == ["parser", "roth"]
    assert words(ALL._replace(alphabetic=True)) == ["parser", "roth", "the"]
    assert words(ALL._replace(stop_words=("Roth", "x1"))) == ["parser", "the"]
    assert words(ALL._replace(listed=True)) == ["parser", "the"]
    assert words(ALL, known={"parser"}) == ["roth", "x1", "the"]
    assert words(ALL, how_many=1) == ["parser"]


def test_the_shortlist_holds_the_words_whose_frequency_exceeds_the_general_one_the_most():
    # Differences: parser 0.299, roth and x1 0.049, the -0.3.
    counts = COUNTS | {"once": 1}
    assert words(ALL._replace(floor=1), how_many=1) == ["roth"]  # the highest ratio, 500
    assert words(ALL._replace(floor=1, shortlist=1), how_many=1) == ["parser"]
    assert words(ALL._replace(floor=1, shortlist=1), how_many=3) == ["roth", "x1", "parser"]
    in_large = {word: 1000 * count for word, count in counts.items()}
    rules = ALL._replace(shortlist=1)  # is counted in words: a corpus of another size has the same
    assert [[found.word for found in find_words(c, GENERAL, 2, rules)] for c in (counts, in_large)] == [
        ["parser", "roth"]
    ] * 2


def test_in_a_small_corpus_the_shortlist_needs_no_least_count():
    # 40 words of grammar 30 times each, as often as in general; 8 of the domain 4 times; 60 names once, which are rarer.
    grammar, domain, names = ([f"{kind}{i}" for i in range(n)] for kind, n in (("and", 40), ("cell", 8), ("name", 60)))
    counts = dict.fromkeys(grammar, 30) | dict.fromkeys(domain, 4) | dict.fromkeys(names, 1)
    general = dict.fromkeys(grammar, 30_000) | dict.fromkeys(domain, 40) | dict.fromkeys(names, 1)

    def found(shortlist, min_count):
        return {
            word.word for word in find_words(counts, general, 4, ALL._replace(shortlist=shortlist, min_count=min_count))
        }

    assert found(shortlist=2, min_count=1) <= set(domain)
    assert found(shortlist=0, min_count=1) <= set(names)
    assert found(shortlist=0, min_count=30) <= set(grammar)


def test_common_words_among_anchors_are_named():
    domain, common = FoundWord("kinase", 5, 10, COMMON), [FoundWord(w, 9, 90, 4.9) for w in "abcdef"]
    assert common_words_warning([domain]) == common_words_warning([]) == ""
    assert common_words_warning([domain, *common]).startswith(
        "6 of 7 anchors are common words, less than 5 times as common here as in general (a, b, c, d, e, ...): find fewer"
    )


def test_rules_that_leave_no_word_are_an_error():
    with pytest.raises(TfIcfError, match="min_count=61 .*the commonest, 'the', occurs 60 times.*; lower min_count"):
        words(ALL._replace(min_count=61))
    with pytest.raises(TfIcfError, match="there are no words at all"):
        find_words({}, GENERAL, 1, ALL)


def test_unigrams_are_read_plain_and_gzipped_in_lower_case(tmp_path):
    text = "the\t90\nPaul\t3\npaul\t4\n\n"
    (tmp_path / "plain.txt").write_text(text)
    (tmp_path / "zipped").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.txt", "zipped"):
        assert read_unigrams(tmp_path / name) == {"the": 90, "paul": 7}


def test_without_a_file_wordfreq_says_how_common_words_are():
    general = read_general("")
    assert general["the"] > general["person"] > general["parser"] > general["treebank"] > 0
    assert "charniak" not in general
    assert general["the"] / sum(general.values()) == pytest.approx(0.0537, rel=0.05)


def test_a_file_stands_in_for_wordfreq(tmp_path):
    (tmp_path / "counts.txt").write_text("the\t9\n")
    assert read_general(str(tmp_path / "counts.txt")) == {"the": 9}
    with pytest.raises(TfIcfError, match="no word counts at"):
        read_general("wordfreq")


@pytest.mark.parametrize(
    "line", ["person", "person 7", "person\t", "person\t1.5", "person\t0", "\t7", "a\t-1", "a\tb\t7"]
)
def test_a_line_that_is_no_count_is_shown(tmp_path, line):
    (tmp_path / "counts.txt").write_text(f"the\t9\n{line}\n")
    with pytest.raises(TfIcfError, match="counts.txt, line 2: .* is not a word, a tab and a count from 1"):
        read_unigrams(tmp_path / "counts.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no word counts at .*; give a file such as count_1w"),
        (b"\n \n", "holds no word counts"),
        (b"\xff\xfe\xfd", "cannot be read as word counts"),
        (gzip.compress(b"the\t9\n" * 999, mtime=0)[:-12], "cannot be read as word counts"),
    ],
)
def test_a_file_that_is_missing_empty_or_damaged_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "counts").write_bytes(content)
    with pytest.raises(TfIcfError, match=message):
        read_unigrams(tmp_path / "counts")


def test_most_of_the_official_anchors_of_citation_intent_are_found(shared_data):
    lines = (shared_data / "text_classification/citation_intent/train.txt").read_text(encoding="utf-8").splitlines()
    counts = count_words(json.loads(line)["text"] for line in lines)
    general = read_unigrams(shared_data / "unigrams/count_1w.txt.gz")
    official = json.loads((shared_data.parent / "paper_tables.json").read_text())["official_seed_words_K20"]
    rules = WordRules(shortlist=0, min_count=30, min_length=3, alphabetic=True, stop_words=(), floor=0)
    found = {word.word for word in find_words(counts, general, 20, rules)}
    assert len(found & set(official["citation_intent"])) == 13  # the rest of the authors' rule is not published
    assert {"charniak", "treebank", "coreference", "parser", "syntactic"} <= found
    rare = {word.word for word in find_words(counts, general, 20, rules._replace(min_count=1))}
    assert len(rare & set(official["citation_intent"])) == 1  # the ratio alone prefers names that occur a few times
