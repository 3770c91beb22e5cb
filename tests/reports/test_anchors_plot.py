"""`mmdiff anchors`: a table on the screen, a picture and what it was made of on disk."""

import importlib
import io
import json

import pytest
from PIL import Image

from mmdiff import cli
from mmdiff.masking.published_anchors import PUBLISHED_ANCHORS
from mmdiff.masking.tf_icf import FoundWord
from mmdiff.reports.anchors_plot import anchors_plot, anchors_table, corpus_anchors


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "parsing"
    folder.mkdir()
    rows = ["the parser parses << the >> treebank", "the parser of Collins", "the zzyzx zzyzx"]
    (folder / "train.txt").write_text("".join(json.dumps({"text": row, "label": "x"}) + "\n" for row in rows))
    (tmp_path / "counts.txt").write_text("the\t9000\nof\t900\nparser\t10\ntreebank\t10\ncollins\t80\n")
    return tmp_path


def ask(capsys, *words):
    code = cli.main(["anchors", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_table_says_counts_and_scores_best_first(corpus, capsys):
    code, out, _ = ask(capsys, corpus / "parsing", "--min-count", 1, "--unigrams", corpus / "counts.txt", "--count", 2)
    assert code == 0
    assert out.splitlines() == [
        "|     | word     | count | in general | TF-ICF |",
        "| --: | -------- | ----: | ---------: | -----: |",
        "|   1 | parser   |     2 |         10 |    167 |",
        "|   2 | treebank |     1 |         10 |   83.3 |",
        "3 training texts of parsing, 12 words; in general: counts.txt, 10,000 words",
    ]


def test_common_words_are_warned_of_on_the_screen_and_on_disk(corpus, capsys):
    options = ("--unigrams", corpus / "counts.txt", "--out", corpus / "out")
    said = ask(capsys, corpus / "parsing", *options, "--count", 2)[1]
    assert "WARNING" not in said and json.loads((corpus / "out/anchors.json").read_text())["warning"] == ""
    said = ask(capsys, corpus / "parsing", *options)[1]
    stored = json.loads((corpus / "out/anchors.json").read_text())["warning"]
    assert stored.startswith("1 of 4 anchors are common words, less than 5 times as common here as in general (the): ")
    assert f"\nWARNING: {stored}\n" in said


@pytest.mark.parametrize("name", ["acl_arc", "chemprot", "text_folder"])
def test_the_command_finds_the_anchors_that_runs_find(corpus, name):
    config = importlib.import_module(f"configs.{name}").get_config().anchors
    found = corpus_anchors(corpus / "parsing", unigrams=str(corpus / "counts.txt"))
    assert found.rules == config.rules() and config.find == 20


def test_words_that_are_not_listed_are_found_if_that_is_asked(corpus, capsys):
    options = ("--min-count", 1, "--unigrams", corpus / "counts.txt", "--count", 2)
    assert "| zzyzx  |     2 |          — |" in ask(capsys, corpus / "parsing", *options, "--unlisted")[1]


def test_without_a_file_wordfreq_is_the_general_english(corpus, capsys):
    code, out, _ = ask(capsys, corpus / "parsing", "--min-count", 1)
    assert code == 0 and "in general: wordfreq (English)" in out
    assert out.splitlines()[2].split("|")[2].strip() == "treebank"


def test_the_picture_and_its_numbers_are_written(corpus, capsys):
    out = corpus / "out"
    assert ask(capsys, corpus / "parsing", "--min-count", 1, "--unigrams", corpus / "counts.txt", "--out", out)[0] == 0
    stored = json.loads((out / "anchors.json").read_text())
    assert [word["word"] for word in stored["found"]] == ["parser", "treebank", "collins", "the"]
    assert stored["rules"]["listed"] is True and stored["unigrams"] == "counts.txt" and stored["words"] == 12
    picture = Image.open(out / "anchors.png")
    assert picture.width > 1.5 * picture.height > 200


def test_more_words_than_have_room_for_their_names_make_a_picture_too():
    counts = {f"word{i}": 30 for i in range(40)}  # all in one place
    found = [FoundWord(word, count, 5, 10.0 + count) for word, count in counts.items()]
    picture = Image.open(io.BytesIO(anchors_plot(found, counts, dict.fromkeys(counts, 5) | {"the": 999}, 30, "many")))
    assert picture.height > 0.9 * picture.width  # a bar for each
    with pytest.raises(ValueError, match="no anchors"):
        anchors_plot([], counts, counts, 30, "none")


def test_a_word_that_general_english_lacks_has_a_dash():
    table = anchors_table([FoundWord("hpsg", 1_234, 0, 12345.6)])
    assert table.splitlines()[2] == "|   1 | hpsg | 1,234 |          — | 12,346 |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no texts at nowhere"),
        (("parsing", "--min-count", "30"), "no word can be found: none of 7 occurs min_count=30 times"),
        (("parsing", "--min-length", "9"), "is not excluded (the commonest, 'the', occurs 4 times); lower min_length"),
        (("parsing", "--count", "0"), r"anchors.words=\(\) leaves no anchors"),
        (("parsing", "--min-count", "0"), "anchors.min_count=0 must be at least 1"),
        (("parsing", "--unigrams", "gone.txt"), "no word counts at gone.txt"),
        (("parsing", "more"), "do not know what to do with 'more'"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(corpus, capsys, monkeypatch, words, message):
    monkeypatch.chdir(corpus)
    code, out, err = ask(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("mmdiff anchors: ") and err.count("\n") == 1
    assert message.replace("\\", "") in err


def test_a_corpus_with_nothing_to_train_on_is_named(corpus, capsys):
    (corpus / "parsing" / "train.txt").rename(corpus / "parsing" / "test.txt")
    code, _, err = ask(capsys, corpus / "parsing")
    assert code == 2 and "holds no training texts" in err


@pytest.mark.parametrize(("name", "published"), [("citation_intent", 15), ("chemprot", 14)])
def test_the_published_anchors_are_found_without_an_option(shared_data, capsys, tmp_path, name, published):
    norvig = shared_data / "unigrams/count_1w.txt.gz"
    corpus = shared_data / "text_classification" / name
    assert ask(capsys, corpus, "--unigrams", norvig, "--out", tmp_path)[0] == 0
    found = {word["word"] for word in json.loads((tmp_path / "anchors.json").read_text())["found"]}
    assert len(found & set(PUBLISHED_ANCHORS[name])) == published
