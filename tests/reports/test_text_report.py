"""`mmdiff report` on text: rows are methods, their numbers those of named folders, seeds of one method pooled."""

import json

import numpy as np
import pytest
from measured import write_probe, write_run
from measured_texts import run_config, write_text_probe, write_text_run

from mmdiff.data.text_scores import score_classes, score_entities
from mmdiff.errors import UserError
from mmdiff.reports import report, text_paper
from mmdiff.reports.text_predictions import count_classes, count_entities, count_units, macro_f1, micro_f1
from mmdiff.reports.text_results import APART, method_of
from mmdiff.training.text_presets import TEXT_METHODS, TEXT_PRESETS


@pytest.fixture
def folders(tmp_path):
    """Three seeds of random words and of difference masking, one each of its variants, and the model as it came."""
    top = tmp_path / "sweep"
    for seed in range(3):
        for method, score in (("random_word", 0.60), ("difference", 0.66)):
            run = write_text_run(top / method / f"seed_{seed}" / "run", method, seed)
            write_text_probe(
                top / method / f"seed_{seed}" / "probe", score + seed / 100, method, seed, checkpoint=run.resolve()
            )
    write_text_probe(top / "centroid" / "probe", 0.63, "difference_centroid")
    write_text_probe(top / "token" / "probe", 0.61, "difference_token")
    for k in (5, 10):
        write_text_probe(top / f"k{k}" / "probe", 0.6 + k / 500, "difference", fields={"anchors__find": k})
    write_text_probe(top / "none" / "probe", 0.58, checkpoint="/models/roberta-base")
    return top


def written(out, *paths) -> dict[str, str]:
    report.report(list(paths), out, progress_bar=False)
    return {path.suffix: path.read_text() for path in out.glob("report.*")}


def row(markdown: str, *cells: str) -> dict[str, str]:
    """The one line of a table that holds all of these cells, by column."""
    lines, header, found = markdown.splitlines(), [], []
    for number, line in enumerate(lines):
        parts = [part.strip() for part in line.strip("|").split("|")]
        if "".join(lines[number + 1 : number + 2]).startswith("|-") or "| --" in "".join(
            lines[number + 1 : number + 2]
        ):
            header = parts
        if line.startswith("|") and set(cells) <= set(parts):
            found.append(dict(zip(header, parts, strict=True)))
    assert len(found) == 1, (cells, found)
    return found[0]


def main_table(markdown: str) -> str:
    return markdown.split("## Scores on text")[1].split("## Each class")[0]


def scores(path, metric="macro_f1") -> np.ndarray:
    return 100 * np.array(json.loads((path / "probe.json").read_text())["scores"][metric])


def test_seeds_of_one_method_are_one_row_beside_the_papers(folders, tmp_path):
    markdown = main_table(written(tmp_path / "out", folders)[".md"])
    column = "macro F1 (the paper's), %"
    for method, title, theirs in (
        ("random_word", "random word", "62.05 ± 2.21"), ("difference", "difference, K 20", "74.04 ± 2.01"),
    ):  # fmt: skip
        means = [scores(folders / method / f"seed_{seed}" / "probe").mean() for seed in range(3)]
        found = row(markdown, title)
        assert found[column] == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
        assert (found["runs"], found["seeds"]) == ("3", "5") and found["paper, % (n=5)"] == theirs
    untouched = scores(folders / "none" / "probe")
    found = row(markdown, "no continued pretraining")
    assert found[column] == f"{untouched.mean():.2f} ± {untouched.std(ddof=1):.2f}"
    assert (found["runs"], found["seeds"]) == ("1", "5") and found["paper, % (n=5)"] == "—"
    assert row(markdown, "always the commonest label")["accuracy, %"] == "51.08"
    assert row(markdown, "one salient span (REALM)")[column] == "not measured"
    assert row(markdown, "one salient span (REALM)")["paper, % (n=5)"] == "71.94 ± 0.58"


def test_scores_without_copies_are_shown(folders, tmp_path):
    texts = written(tmp_path / "out", folders)
    found = row(main_table(texts[".md"]), "random word")
    without = [
        json.loads((folders / "random_word" / f"seed_{s}" / "probe" / "probe.json").read_text()) for s in range(3)
    ]
    means = [100 * np.mean(probe["deduplicated_scores"]["macro_f1"]) for probe in without]
    assert found["without copies, %"] == f"{np.mean(means):.2f} ± {np.std(means, ddof=1):.2f}"
    assert "52 of 139 test texts are training texts, too" in texts[".md"]


def test_every_format_says_the_same_and_video_is_not_spoken_of(folders, tmp_path):
    texts = written(tmp_path / "out", folders)
    for heading in ("Scores on text", "Each class", "Nearest anchor or centroid", "Tokens or words", "How many anchors", "Curves of text"):  # fmt: skip
        assert all(heading in texts[suffix] for suffix in (".md", ".html", ".tex")), heading
    assert "Is a difference more than chance" not in texts[".md"] and "frozen and a linear head" not in texts[".md"]
    found = row(main_table(texts[".md"]), "random word")["macro F1 (the paper's), %"].split(" ± ")[0]
    assert found in texts[".html"] and found in texts[".tex"]
    content = json.loads(texts[".json"])["text"]
    (group,) = content["groups"]
    rows = {row["title"]: row for row in group["rows"]}
    assert f"{100 * rows['random word']['scores']['macro_f1']['mean']:.2f}" == found
    assert rows["random word"]["paper_percent"]["mean"] == 62.05 and len(rows["random word"]["probes"]) == 3
    assert {run["method"] for run in content["runs"]} == {"random_word", "difference"}


def test_tables_3_and_7_and_figure_4_hold_what_was_measured(folders, tmp_path):
    markdown = written(tmp_path / "out", folders)[".md"]
    third = markdown.split("## Nearest anchor or centroid")[1].split("## ")[0]
    assert row(third, "difference, centroid", "69.02")["runs"] == "1"
    assert row(third, "difference, K 20", "74.04")["runs"] == "3"
    seventh = markdown.split("## Tokens or words")[1].split("## ")[0]
    assert row(seventh, "difference, tokens", "65.01")
    fourth = markdown.split("## How many anchors")[1].split("## ")[0]
    lines = [line for line in fourth.splitlines() if line.startswith("|")][2:]
    nearest = [line for line in lines if "difference, K" in line]
    assert [int(line.split("|")[1]) for line in nearest] == [5, 10, 20] and "picture-1.png" in fourth


def test_methods_that_one_setting_tells_apart_are_rows_of_their_own(tmp_path):
    for number, ratio in enumerate((0.15, 0.25)):
        write_text_probe(tmp_path / f"p{number}", 0.6, "random_word", fields={"masking__ratio": ratio})
    write_text_probe(
        tmp_path / "moved", 0.6, "random_word", 1, fields={"masking__ratio": 0.25, "data__corpus": "/moved"}
    )
    markdown = main_table(written(tmp_path / "out", tmp_path)[".md"])
    assert row(markdown, "random word, ratio 0.15")["runs"] == "1"
    assert row(markdown, "random word, ratio 0.25")["runs"] == "2"


def test_a_warning_of_a_runs_anchors_is_a_note_of_the_report(tmp_path):
    warning = "14 of 14 anchors are common words (been, were): find fewer"
    for seed in range(2):
        run = write_text_run(tmp_path / f"seed_{seed}", "difference", seed)
        kept = json.loads((run / "anchors.json").read_text())
        (run / "anchors.json").write_text(json.dumps(kept | {"warning": warning}))
    for text in written(tmp_path / "out", tmp_path).values():
        assert text.count("14 of 14 anchors are common words") >= 1
    assert written(tmp_path / "out", tmp_path)[".md"].count(f"ACL-ARC: {warning}.") == 1  # of both seeds


def test_modes_probes_and_texts_that_differ_are_never_pooled(tmp_path):
    write_text_probe(tmp_path / "tuned", 0.6, "random_word")
    write_text_probe(tmp_path / "linear", 0.5, "random_word", mode="linear")
    write_text_probe(tmp_path / "other_rate", 0.4, "random_word", config={"optimizer": {"learning_rate": 1e-6}})
    write_text_probe(tmp_path / "other_texts", 0.4, "random_word", records="feedfacefeedface")
    content = json.loads(written(tmp_path / "out", tmp_path)[".json"])["text"]["groups"]
    assert sorted(group["title"] for group in content) == [
        "ACL-ARC, finetune, learning rate 1e-06, texts 0123456789abcdef",
        "ACL-ARC, finetune, learning rate 2e-05, texts 0123456789abcdef",
        "ACL-ARC, finetune, texts feedfacefeedface",
        "ACL-ARC, linear, texts 0123456789abcdef",
    ]
    assert all(len(group["rows"]) == 1 for group in content)


def test_video_and_text_stand_in_one_report(tmp_path):
    run = write_run(tmp_path / "video", "random")
    write_probe(tmp_path / "video_probe", checkpoint=run.resolve())
    write_text_probe(tmp_path / "text", 0.6, "random_word")
    markdown = written(tmp_path / "out", tmp_path)[".md"]
    assert markdown.index("## Accuracy") < markdown.index("## Scores on text")


def test_what_cannot_be_read_is_left_out_with_a_reason(tmp_path):
    write_text_probe(tmp_path / "good", 0.6, "random_word")
    write_text_probe(
        tmp_path / "bad", 0.6, "random_word", scores={"accuracy": [2.0], "micro_f1": [0.1], "macro_f1": [0.1]}
    )
    write_text_run(tmp_path / "unfinished", "random_word", finished=False)
    markdown = written(tmp_path / "out", tmp_path)[".md"].split("## Left out")[1]
    assert "holds 2.0, not a share" in markdown and "unfinished: it has no summary.json" in markdown
    with pytest.raises(UserError, match="nothing to report.*holds 2.0"):
        report.report([tmp_path / "bad"], tmp_path / "out2", progress_bar=False)


@pytest.mark.parametrize("method", TEXT_METHODS)
def test_a_runs_configuration_says_its_method(method):
    assert method_of(run_config(method)) == method
    assert method in text_paper.TEXT_METHODS and method_of(None) == "none"


def test_what_a_preset_sets_is_no_method():
    """The authors draw tokens one by one: their difference-masking is still the row of the paper's main table."""
    config = run_config("difference") | {"preset": "official_code"}
    for path, value in TEXT_PRESETS["official_code"].items():
        section, name = path.split(".")
        config[section] = config.get(section, {}) | {name: value}
    assert method_of(config) == "difference"


def test_a_strategy_of_ones_own_is_its_own_name(tmp_path):
    config = run_config("random_word") | {"masking": {"strategy": "mine:words"}}
    write_text_probe(tmp_path / "p", 0.6, pretraining=config)
    assert row(main_table(written(tmp_path / "out", tmp_path)[".md"]), "mine:words")


def test_the_papers_numbers_are_those_of_its_tables(shared_data):
    stored = json.loads((shared_data.parent / "paper_tables.json").read_text())
    for table in ("table1", "table3", "table7"):
        theirs = {found["method"]: found for found in stored[table]["rows"]}
        for method, columns in text_paper.text_facts()[table].items():
            for column, (mean, std) in columns.items():
                cell = theirs[method][column]
                expected = (
                    (cell["mean"], cell["std"])
                    if isinstance(cell, dict)
                    else (cell * (100 if table == "table7" else 1), None)
                )
                assert mean == pytest.approx(expected[0]) and std == expected[1]
    named = {getattr(method, table) for method in text_paper.TEXT_METHODS.values() for table in ("table1",)} - {""}
    assert named == set(text_paper.text_facts()["table1"])


def test_what_tells_no_runs_apart_is_what_a_run_may_change():
    from mmdiff.training.config import MACHINE, PATHS

    of_video = {"data.records", "data.tokenizer"}
    assert {*PATHS, *MACHINE} - of_video <= {*APART, "train.save_every", "train.seed"}


def write_predictions(folder, right: float, texts=200, seeds=5) -> None:
    """Predictions of two classes, about so many right, two texts to a document; probe.json gets their scores."""
    draw = np.random.default_rng(int(100 * right))
    gold = np.arange(texts, dtype=np.int32) % 2
    predicted = np.where(draw.random((seeds, texts)) < right, gold, 1 - gold).astype(np.int32)
    np.savez(
        folder / "predictions.npz", id=np.array([f"test.txt:{i}" for i in range(texts)]), gold=gold, predicted=predicted,
        document=np.array([f"d{i // 2}" for i in range(texts)]), first=np.arange(texts + 1),
    )  # fmt: skip
    result = json.loads((folder / "probe.json").read_text())
    found = [score_classes(gold, of_seed, ("a", "b")) for of_seed in predicted]
    scores = {name: [getattr(x, name) for x in found] for name in ("accuracy", "micro_f1", "macro_f1")}
    (folder / "probe.json").write_text(json.dumps(result | {"scores": scores, "labels": ["a", "b"]}))


def test_methods_are_tested_on_the_same_texts_and_others_are_named(tmp_path):
    for method, right in (("random_word", 0.6), ("difference", 0.75), ("span", 0.6)):
        write_predictions(
            write_text_probe(tmp_path / method, 0.6, method, dataset="two_classes", texts={"test": 200}), right
        )
    (tmp_path / "span" / "predictions.npz").unlink()
    texts = written(tmp_path / "out", tmp_path)
    tests = json.loads(texts[".json"])["text"]["paired_tests"]
    ((pair,),) = tests["families"].values()
    assert (pair["first"], pair["second"], pair["texts"], pair["clusters"]) == ("difference", "random word", 200, 100)
    means = [scores(tmp_path / name).mean() / 100 for name in ("difference", "random_word")]
    assert pair["difference"] == pytest.approx(means[0] - means[1], abs=1e-3)  # F1 of means is not the mean of F1
    assert 0 < pair["low"] < pair["difference"] < pair["high"] and pair["p_value_holm"] < 0.01
    found = row(texts[".md"].split("on text more than chance")[1].split("## ")[0], "difference", "random word")
    assert found["p (Holm)"] == f"{pair['p_value_holm']:.4f}" and (found["texts"], found["documents"]) == ("200", "100")
    left = row(texts[".md"].split("## Left out")[1], str(tmp_path / "span"))
    assert left["why"] == "no paired test: there is no predictions.npz"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"document": None}, "does not say the document of each answer, for an older mmdiff wrote it"),
        ({"gold": np.zeros(3, np.int32)}, "does not hold one prediction for each unit of 200 texts and 5 seeds"),
        ({"gold": np.full(200, 7)}, "holds labels that probe.json does not name"),
        ({"gold": np.zeros(200, np.int32)}, "gives other scores than probe.json"),
    ],
)
def test_predictions_that_cannot_be_used_are_named(tmp_path, change, why):
    path = write_text_probe(tmp_path / "probe", 0.6, "random_word", dataset="two_classes") / "predictions.npz"
    write_predictions(path.parent, 0.7)
    stored = dict(np.load(path)) | change
    np.savez(path, **{name: array for name, array in stored.items() if array is not None})
    assert why in written(tmp_path / "out", tmp_path)[".md"]


def test_counts_of_texts_sum_to_the_scores_of_a_probe():
    draw, tags = np.random.default_rng(0), ("O", "B-Drug", "I-Drug", "B-Gene", "I-Gene")
    first = np.arange(0, 301, 6)
    gold, predicted = draw.integers(0, 5, (2, 300))
    predicted[:20] = -1  # words that the model cannot see count as O
    names = np.array(tags)
    split = [np.split(names[np.maximum(x, 0)], first[1:-1]) for x in (gold, predicted)]
    wanted = score_entities(*[[words.tolist() for words in texts] for texts in split])
    counts = count_entities(gold, predicted, first, tags).sum(axis=0, keepdims=True)
    assert (micro_f1(counts)[0], macro_f1(counts)[0]) == pytest.approx((wanted.micro_f1, wanted.macro_f1))
    wanted = score_classes(gold, predicted, tags)
    counts = count_classes(gold, predicted, 5).sum(axis=0, keepdims=True)
    assert macro_f1(counts)[0] == pytest.approx(wanted.macro_f1)
    counts = count_units(gold, predicted, first).sum(axis=0, keepdims=True)
    assert micro_f1(counts)[0] == pytest.approx(wanted.accuracy)
