"""What masks hid: how often, how far beyond chance, of the labels' words or not; and the texts, marked and escaped."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from measured_texts import write_text_run

from mmdiff.data.text_corpora import Text
from mmdiff.data.text_examples import Annotations, text_examples
from mmdiff.data.text_tokens import TokenizedText, word_spans
from mmdiff.errors import UserError
from mmdiff.masking.word_strategies import TokenMask, WordMaskingConfig
from mmdiff.models.text_encoder import TextEncoderConfig, TextModel
from mmdiff.objectives.masked_language import MaskedLanguage, MaskedLanguageConfig
from mmdiff.reports import report
from mmdiff.reports.hidden_words import HIDDEN_WORDS, STOP_WORDS, read_hidden_words
from mmdiff.reports.hidden_words_plot import packed
from mmdiff.reports.label_words import label_pieces, same_stem, words_of_labels
from mmdiff.training import pretrain_text

TEXT = "The parser <b>uses & inhibits</b> $x_1$ of [50%] grammars"
LABELS = ["CompareOrContrast", "INHIBITOR", "Uses"]


def stored(hide=("parser", "inhibits", "of"), similarity=0.5, **changed) -> dict:
    """hidden_words.json of 1,000 words, 200 of them hidden: "the" by chance, "parser" three times as often."""
    words = [
        [start, end, TEXT[start:end] in hide, 0.0 if not TEXT[start:end].isalpha() else similarity]
        for start, end in word_spans(TEXT)
    ]
    return {
        "texts": 40,
        "hidden": {"the": 60, "model": 10, "parser": 9, "inhibits": 6, "inhibited": 3, "use": 2, "e": 2, "seen": 0},
        "occurs": {
            "the": 300,
            "model": 100,
            "parser": 15,
            "inhibits": 10,
            "inhibited": 5,
            "use": 20,
            "e": 10,
            "seen": 20,
        },
        "words_hidden": 200,
        "words": 1000,
        "labels": LABELS,
        "samples": [{"name": "train.txt:7", "text": TEXT, "label": "<i>Uses</i>", "words": words}],
    } | changed


def write(folder: Path, found: dict | str) -> Path:
    path = folder / HIDDEN_WORDS
    path.write_text(found if isinstance(found, str) else json.dumps(found))
    return path


@pytest.fixture
def found(tmp_path):
    return read_hidden_words(write(tmp_path, stored()))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("inhibitor", "inhibits", True),
        ("inhibitor", "inhibition", True),
        ("inhibitor", "inhibitory", True),
        ("activator", "activity", True),
        ("antagonist", "antagonists", True),
        ("antagonist", "agonist", False),
        ("uses", "using", True),
        ("uses", "use", True),
        ("uses", "user", False),
        ("compare", "comparison", True),
        ("motivation", "motivated", True),
        ("future", "further", False),
        ("product", "production", True),
        ("substrate", "subtle", False),
        ("a", "as", False),
    ],
)
def test_words_of_one_stem_differ_in_their_endings_alone(first, second, same):
    assert same_stem(first, second) == same_stem(second, first) == same


@pytest.mark.parametrize(
    ("label", "pieces"),
    [
        ("CompareOrContrast", ("compare", "contrast")),
        ("INDIRECT-DOWNREGULATOR", ("indirect", "downregulator", "regulator")),
        ("SUBSTRATE_PRODUCT-OF", ("substrate", "product")),
        ("background", ("background",)),
        ("HTMLPage2", ("html", "page")),
        ("Übersicht", ("übersicht",)),
        ("", ()),
    ],
)
def test_a_label_is_the_words_of_its_name(label, pieces):
    assert label_pieces(label, STOP_WORDS) == pieces


def test_a_word_can_be_of_several_labels_and_none():
    found = words_of_labels(["AGONIST", "AGONIST-INHIBITOR", "Future"], ["inhibits", "agonists", "the"])
    assert found == {"AGONIST": ("agonists",), "AGONIST-INHIBITOR": ("inhibits", "agonists"), "Future": ()}


def test_times_chance_are_shares_of_occurrences_in_parts_of_the_share_of_all(found, tmp_path):
    assert found.chance == 0.2
    the, parser = found.standing("the"), found.standing("parser")
    assert the.times == pytest.approx(1.0) and parser.times == pytest.approx((9 / 15) / 0.2)
    assert parser.low < parser.times < parser.high and the.high - the.low < parser.high - parser.low
    half = read_hidden_words(write(tmp_path, stored(words_hidden=1000, hidden={"x": 5}, occurs={"x": 10}))).standing(
        "x"
    )
    assert (half.low, half.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # Wilson's interval of 5 in 10
    assert found.standing("seen").times == 0.0


def test_the_does_not_drown_parser(found):
    assert found.content == ["model", "parser", "inhibits", "inhibited", "use", "seen"]
    # "inhibited" occurs five times: nothing can be said of it.
    assert [standing.word for standing in found.beyond_chance(9)] == ["parser", "inhibits", "model", "use", "seen"]
    assert found.share(STOP_WORDS).of_hidden == pytest.approx(0.3)


def test_words_of_labels_are_counted_once_and_with_those_never_hidden(found):
    of = found.of_labels()
    assert of["INHIBITOR"].words == ("inhibits", "inhibited") and of["Uses"].words == ("use",)
    assert of["CompareOrContrast"].words == () and of["CompareOrContrast"].times is None
    every = found.of_any_label()
    assert every.of_hidden == pytest.approx(11 / 200) and every.of_all == pytest.approx(35 / 1000)
    assert every.times == pytest.approx((11 / 200) / (35 / 1000))
    assert found.most_hidden(every.words, 2) == [] and found.most_hidden(every.words, 3) == ["inhibits"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "holds no JSON object"),
        ({"words": None}, "lacks 'words'"),
        ({"words_hidden": 2000}, "2000 of 1000 words hidden"),
        ({"hidden": {"parser": 16}}, "'parser' was hidden 16 times and occurs 15 times"),
        ({"hidden": {"parser": -1}}, "-1 of 'parser'"),
        ({"hidden": {"parser": True}}, "True of 'parser'"),
        ({"hidden": ["parser"]}, "which is no dict"),
        ({"samples": [{"name": "a", "text": "ab", "label": None, "words": [[0, 3, True, 0.5]]}]}, "a word at 0 to 3"),
        ({"samples": [{"name": "a", "text": "ab", "label": None, "words": [[0, 1, True, 7]]}]}, "similarity 7"),
        ({"samples": [{"name": "a", "text": "ab", "words": [[1, 2, True, 0], [0, 1, True, 0]]}]}, "a word at 0 to 1"),
        ({"samples": [{"name": "a", "words": []}]}, "no masked text"),
        ({"samples": ["a"]}, "no masked text"),
        ({"samples": [{"name": "a", "text": 4, "words": [[0, 1, True, 0.5]]}]}, "no masked text"),
    ],
)
def test_a_damaged_file_costs_these_sections_alone_and_is_named(tmp_path, changed, said):
    folder = write_text_run(tmp_path / "runs" / "damaged", "random_word")
    path = write(folder, changed if isinstance(changed, str) else stored(**changed))
    with pytest.raises(UserError) as error:
        read_hidden_words(path)
    assert said in str(error.value) and HIDDEN_WORDS in str(error.value) and "\n" not in str(error.value)
    if isinstance(changed, str):
        pages = written(tmp_path)
        assert "Words that were hidden" not in pages[".md"] and "Curves of text" in pages[".md"]
        assert said in pages[".md"].split("## Left out")[1]


def test_a_run_without_the_file_is_reported_without_it(tmp_path):
    write_text_run(tmp_path / "runs" / "old", "random_word")
    pages = written(tmp_path)
    assert "Words that were hidden" not in pages[".md"] and "Nothing: all that was given" in pages[".md"]


def test_a_run_without_labels_or_texts_has_the_words_alone(tmp_path):
    write(write_text_run(tmp_path / "runs" / "plain", "random_word"), stored(labels=[], samples=[]))
    markdown = written(tmp_path)[".md"]
    assert "Words that were hidden" in markdown
    assert "the task's words" not in markdown and "Texts as they were masked" not in markdown


def test_a_warning_of_anchors_stands_where_they_are_shown(tmp_path):
    run = write_text_run(tmp_path / "runs" / "run", "difference")
    kept = json.loads((run / "anchors.json").read_text()) | {"warning": "3 of 3 anchors are common words"}
    (run / "anchors.json").write_text(json.dumps(kept))
    write(run, stored())
    section = written(tmp_path)[".md"].split("## Words that were hidden")[1].split("\n## ")[0]
    assert "parser, treebank, coreference" in section and "ACL-ARC: 3 of 3 anchors are common words." in section


def written(folder: Path) -> dict[str, str]:
    out = folder / "out"
    report.report([folder / "runs"], out, progress_bar=False)
    return {path.suffix: path.read_text() for path in out.glob("report.*")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for method, seed, similarity, hide in (
        ("difference", 0, 0.75, ("parser", "inhibits", "of")),
        ("difference", 1, 0.75, ("grammars",)),
        ("random_word", 0, 0.0, ("The", "$", "uses")),
    ):
        write(write_text_run(folder / "runs" / f"{method}_{seed}", method, seed), stored(hide, similarity))
    return written(folder)


def test_texts_are_marked_and_what_they_hold_is_text(pages):
    page = pages[".html"].split("Texts as they were masked</h2>")[1].split("</section>")[0]
    assert "<b>" not in page and "<i>" not in page and "&lt;i&gt;Uses" in page
    rows = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page, re.DOTALL))
    assert list(rows) == ["random word", "difference"]
    assert '<mark class="shade-1" title="similarity 0.75">parser</mark> &lt;' in rows["difference"]
    # What random words hide is shaded by what difference masking says of the very text.
    assert re.findall(r'<mark class="(.*?)".*?>(.*?)</mark>', rows["random word"]) == [
        ("shade-1", "The"), ("shade-1", "uses"), ("shade-0", "$"), ("shade-0", "$"),
    ]  # fmt: skip
    plain = re.sub(r"<[^>]*>", "", rows["difference"])
    assert plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == TEXT


def test_documents_without_colours_have_hidden_words_in_bold(pages):
    assert "- *difference*: The <b>parser</b> \\<b>uses & <b>inhibits</b>\\</b> " in pages[".md"]
    assert r"\item[{difference}] The \textbf{parser} " in pages[".tex"]
    assert r"\textbf{of} [50\%] grammars" in pages[".tex"]


def test_one_seed_stands_for_a_method(pages):
    section = pages[".md"].split("## Words that were hidden")[1].split("## Curves")[0]
    assert "difference_0" in section and "difference_1" not in section


def test_words_of_labels_stand_beside_the_papers_reading(pages):
    section = pages[".md"].split("## Are they the task's words?")[1].split("## Texts")[0]
    assert "shows as most masked of ACL-ARC: information, translation" in section
    line = next(line for line in section.splitlines() if line.startswith("| difference"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["difference", "5.50", "3.50", "1.57", "inhibits, inhibited, use", "1: model"]
    assert re.search(r"\| INHIBITOR +\| inhibits, inhibited +\| +3.00 \| +3.00 \|", section)


def test_the_report_says_all_of_it_in_json_too(pages):
    runs = {(run["method"], run["seed"]): run["hidden_words"] for run in json.loads(pages[".json"])["text"]["runs"]}
    found = runs["difference", 1]
    assert found["chance"] == 0.2 and found["labels"]["INHIBITOR"]["times"] == pytest.approx(3.0)
    assert found["beyond_chance"][0]["word"] == "parser" and found["labels"]["CompareOrContrast"]["times"] is None


def test_discs_do_not_lie_over_each_other():
    for seed in range(5):
        radii = np.sort(np.random.default_rng(seed).uniform(0.1, 1, 3 + 5 * seed))[::-1]
        centres = packed(radii)
        apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)) - radii[:, None] - radii[None]
        assert (apart + np.diag([np.inf] * len(radii))).min() > 0
    assert packed(np.ones(1)).tolist() == [[0.0, 0.0]] and len(packed(np.ones(2))) == 2


def test_what_pretraining_writes_is_read(tmp_path, monkeypatch):
    texts = [Text(f"train.txt:{n}", "We parse , the tree .", "Uses", None, None) for n in range(1, 21)]
    words = np.arange(7, dtype=np.int32) * (np.arange(7) < 6)
    spans = np.array([(0, 0), *word_spans(texts[0].text)[:5], (0, 0)], np.int32)
    tokenized = [TokenizedText(words + 5, words, spans[:, 0].copy(), spans[:, 1].copy(), False)] * len(texts)
    made = text_examples(texts, tokenized, Annotations(weight=lambda word: float(word == "tree")))
    masks = [np.isin(example.word, [2, 5] if n % 2 else [3]) for n, example in enumerate(made)]
    hidden = [
        (example, TokenMask(mask, example.word, example.entity > 0)) for example, mask in zip(made, masks, strict=True)
    ]
    monkeypatch.setattr(pretrain_text, "drawn_masks", lambda *_: iter(hidden))
    examples = pretrain_text.Examples({"train": texts}, {"train": made}, (8,))
    sizes = TextEncoderConfig(
        vocab_size=9, hidden_size=4, layers=1, heads=1, intermediate_size=4, positions=9, token_types=1
    )
    objective = MaskedLanguage(TextModel(sizes), WordMaskingConfig(), MaskedLanguageConfig(), 0, ())
    found = pretrain_text.hidden_words(objective, examples, jax.random.key(0))
    read = read_hidden_words(write(tmp_path, found | {"labels": ["Uses"]}))
    assert read.hidden == {"parse": 10, "tree": 10, "the": 0, "we": 0} and read.occurs["the"] == 20
    assert (read.words_hidden, read.words, read.chance) == (30, 100, 0.3) and read.labels == ("Uses",)
    assert [sample.name for sample in read.samples] == [f"train.txt:{n}" for n in range(1, 17, 2)]  # from all over
    assert [word[:4] for word in read.samples[0].words] == [
        (0, 2, False, 0.0), (3, 8, False, 0.0), (9, 10, True, 0.0), (11, 14, False, 0.0), (15, 19, False, 1.0),
    ]  # fmt: skip


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles_whatever_a_text_holds(tmp_path):
    text = "κB \u0080\u00a2 中 \\end{x} % {[ ] ^ ~ #1 naïve “x” …"
    words = [[start, end, True, 0.5] for start, end in word_spans(text)]
    sample = {"name": "train.txt:1", "text": text, "label": "[a]", "words": words}
    write(write_text_run(tmp_path / "runs" / "run", "difference"), stored(samples=[sample]))
    assert r"\textbf{?B}" in written(tmp_path)[".tex"]
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, check=False, cwd=tmp_path / "out", capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
