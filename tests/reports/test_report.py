"""`mmdiff report`: every number is a named folder's, and what nobody measured is not there."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from measured import write_probe, write_run

from mmdiff import cli
from mmdiff.errors import UserError
from mmdiff.reports import analysis, collect, paper, report, tables
from mmdiff.reports.analysis import joint_by_epoch
from mmdiff.reports.hidden_share import inside_boxes
from mmdiff.reports.significance import compare_samples


@pytest.fixture(autouse=True, scope="module")
def few_resamples():
    """The number of resamples has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "compare_samples", functools.partial(compare_samples, resamples=99))
        yield


def write_folders(top: Path) -> Path:
    """Two runs and three probes of TVQA."""
    for number, (strategy, where) in enumerate([("random", "body"), ("difference", "body")]):
        run = write_run(top / strategy, strategy, where, inside=0.2 + 0.3 * number)
        write_probe(
            top / f"probe_{strategy}", 0.5 + 0.2 * number, strategy, where, checkpoint=run.resolve(), rng=number
        )
    write_probe(top / "probe_initial", 0.45, None, rng=7)
    return top


@pytest.fixture
def folders(tmp_path) -> Path:
    return write_folders(tmp_path / "runs")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Such folders, which no test changes, the folder of their report, and its texts."""
    top = write_folders(tmp_path_factory.mktemp("reported") / "runs")
    return top, top.parent / "out", written(top.parent / "out", top)


def written(folder: Path, *runs: Path) -> dict[str, str]:
    report.report(list(runs), folder, progress_bar=False)
    return {path.suffix: path.read_text() for path in folder.glob("report.*")}


def row(markdown: str, *cells: str) -> str:
    """The one line of a table that holds all of these cells."""
    lines = [line for line in markdown.splitlines() if set(cells) <= {cell.strip() for cell in line.split("|")}]
    assert len(lines) == 1, (cells, lines)
    return lines[0]


def test_numbers_are_those_of_the_probes_beside_the_papers(reported):
    folders, _, texts = reported
    markdown = texts[".md"]
    main = markdown.split("**TVQA**")[1].split("**TVQA: each")[0]
    for name, theirs in (("random", "73.75 ± 0.31"), ("difference", "81.73 ± 1.13"), ("initial", "—")):
        result = json.loads((folders / f"probe_{name}" / "probe.json").read_text())
        joint = 100 * np.array(result["accuracy"]["joint"])
        ours = f"{joint.mean():.2f} ± {joint.std(ddof=1):.2f}"
        found = row(main, f"probe_{name}", ours, theirs, "3", "200", "20.00", "95.2% of 210", "linear", "train")
        assert found.count(theirs) >= 1
    assert row(main, "chance", "20.00")
    assert row(main, "highest attention (AttnMask)", "not measured", "81.57 ± 0.12")
    assert row(markdown, "audio, %", "joint at the last epoch, %", "chosen epoch", "learning rate")
    assert "2 to 4" in markdown and "0.001" in markdown


def test_every_format_says_the_same(reported):
    folders, out, texts = reported
    shown = {suffix: set(re.findall(r"\d+\.\d+", text)) for suffix, text in texts.items()}
    measured = {cell for cell in shown[".md"] if not cell.startswith("2305")}
    for cell in measured:
        assert cell in texts[".tex"] and cell in texts[".html"], cell
    assert texts[".html"].count("data:image/png;base64,") == len(list(out.glob("picture-*.png"))) == 2
    content = json.loads(texts[".json"])
    probe = json.loads((folders / "probe_random" / "probe.json").read_text())
    found = next(row for row in content["probes"] if row["name"] == "probe_random")
    assert found["accuracy"] == probe["accuracy"] and found["paper_percent"]["mean"] == 73.75
    assert found["pretraining_run"] == str(folders / "random")
    assert found["std"] == pytest.approx(np.std(probe["accuracy"]["joint"], ddof=1))
    (family,) = content["paired_tests"]["families"].values()
    assert len(family) == 3 and all(0 < pair["p_value"] <= pair["p_value_holm"] <= 1 for pair in family)


def test_the_same_runs_give_the_same_report_in_any_order(folders, tmp_path):
    paths = sorted(folders.iterdir())
    one = written(tmp_path / "one", *paths)
    other = written(tmp_path / "other", *paths[::-1], folders, paths[0])
    assert one == other


def test_nothing_is_said_of_what_was_not_measured(folders, tmp_path):
    texts = written(tmp_path / "out", folders / "probe_random")
    for text in texts.values():
        assert "Social" not in text
    assert "Not measured: no two strategies" in texts[".md"]
    assert "Not measured: no finished run" in texts[".md"]
    assert "Not measured: no such probe" in texts[".md"]
    runs_only = written(tmp_path / "runs_only", folders / "random")
    assert "Not measured: no probe was given." in runs_only[".md"] and "73.75" not in runs_only[".md"]


def test_an_unfinished_run_is_named_and_left_out(folders, tmp_path):
    (folders / "difference" / "summary.json").unlink()
    markdown = written(tmp_path / "out", folders)[".md"]
    assert "unfinished: it has no summary.json" in row(markdown.split("## Left out")[1], str(folders / "difference"))
    assert "probe_difference is a probe of a run that is left out" in markdown
    hidden = markdown.split("## What masking hid")[1].split("## ")[0]
    assert "difference" not in hidden and row(hidden, "random", "17")


def in_copies(folder: Path, damages: list[tuple]) -> dict[Path, tuple]:
    """Copies of a folder in its place, one for each damage."""
    copies = {shutil.copytree(folder, f"{folder}_{number}"): damage for number, damage in enumerate(damages)}
    shutil.rmtree(folder)
    return {Path(copy): damage for copy, damage in copies.items()}


BROKEN_PROBES = [
    (lambda probe: (probe / "probe.json").write_text("{"), "probe.json cannot be read"),
    (lambda probe: (probe / "probe.json").write_text("[]"), "holds no JSON object"),
    (lambda probe: (probe / "probe.json").write_bytes(b"\xff\xfe"), "probe.json cannot be read"),
    (lambda probe: change(probe, chance=None), "lacks 'chance'"),
    (lambda probe: change(probe, questions="many"), "'questions' is 'many', which is no int"),
    (lambda probe: change(probe, chance=20.0), "not a share from 0 to 1"),
    (lambda probe: change(probe, accuracy={"joint": [float("nan")]}), "not a share from 0 to 1"),
    (lambda probe: change(probe, accuracy={"joint": []}), "holds no joint accuracy"),
    (lambda probe: change(probe, accuracy={"joint": [57.5]}), "not a share from 0 to 1"),
    (lambda probe: change(probe, coverage={"validation": {"kept": 3}}), "lacks 'annotated'"),
    (lambda probe: (probe / "probe.json").unlink(), "neither config.json nor probe.json: unfinished"),
]


def test_a_broken_probe_costs_only_itself(folders, tmp_path):
    broken = in_copies(folders / "probe_initial", BROKEN_PROBES)
    for probe, (damage, _) in broken.items():
        damage(probe)
    markdown = written(tmp_path / "out", folders)[".md"]
    for probe, (_, why) in broken.items():
        assert why in row(markdown.split("## Left out")[1], str(probe))
    assert "no continued pretraining" not in markdown
    assert row(markdown.split("**TVQA**")[1].split("**TVQA: each")[0], "probe_random")


BROKEN_ANSWERS = [
    (lambda file: file.unlink(), "there is no predictions.npz"),
    (lambda file: file.write_bytes(file.read_bytes()[:100]), "predictions.npz cannot be read"),
    (lambda file: rewrite(file, id=np.array(["q"])), "where probe.json asks"),
    (lambda file: rewrite(file, video=np.array(["v"])), "where probe.json asks"),
    (lambda file: rewrite(file, id=np.array([{}] * 200)), "cannot be read"),
    (lambda file: rewrite(file, correct=np.ones((3, 200, 3), bool)), "other accuracies than"),
    (lambda file: rewrite(file, video=None), "does not say the video of each answer, for an older mmdiff wrote it"),
]


def test_a_probe_without_its_answers_is_shown_and_not_tested(folders, tmp_path):
    broken = in_copies(folders / "probe_initial", BROKEN_ANSWERS)
    for probe, (damage, _) in broken.items():
        damage(probe / "predictions.npz")
    texts = written(tmp_path / "out", folders)
    for probe, (_, why) in broken.items():
        line = row(texts[".md"].split("## Left out")[1], str(probe))
        assert "no paired test" in line and why in line
        assert row(texts[".md"].split("**TVQA**")[1].split("**TVQA: each")[0], probe.name)
    (family,) = json.loads(texts[".json"])["paired_tests"]["families"].values()
    assert len(family) == 1


def change(probe: Path, **fields) -> None:
    result = json.loads((probe / "probe.json").read_text())
    (probe / "probe.json").write_text(json.dumps(result | fields))


def rewrite(file: Path, **arrays) -> None:
    """Changes arrays of predictions; None takes one out."""
    stored = dict(np.load(file)) | arrays
    np.savez(file, **{name: array for name, array in stored.items() if array is not None})


def test_a_difference_is_found_and_the_same_one_of_other_questions_is_not_tested(tmp_path):
    write_probe(tmp_path / "a", 0.5, "random", questions=200)
    write_probe(tmp_path / "b", 0.6, "difference", "body", questions=200, rng=1)
    write_probe(tmp_path / "c", 0.6, "difference", "face", questions=150, rng=1)
    texts = written(tmp_path / "out", tmp_path)
    tests = json.loads(texts[".json"])["paired_tests"]
    ((pair,),) = tests["families"].values()
    assert (Path(pair["first"]).name, Path(pair["second"]).name) == ("b", "a")
    assert pair["p_value"] < 0.05 and pair["low"] > 0
    assert len(tests["refused"]) == 2
    assert "c and a were not compared: not the same questions: 150 and 200 were answered, 150 by both." in texts[".md"]


def test_only_like_is_compared_with_like(tmp_path):
    """Another mode, way of choosing, protocol, dataset, or content of records is another table or no test."""
    write_probe(tmp_path / "a", 0.5, "random")
    for name, other in (
        ("mode", {"mode": "finetune"}),
        ("selection", {"selection": "validation"}),
        ("protocol", {"protocol": "a2"}),
        ("dataset", {"dataset": "social_iq"}),
        ("records", {"records": "fedcba9876543210"}),
    ):
        write_probe(tmp_path / name, 0.7, "difference", "body", **other)
    texts = written(tmp_path / "out", tmp_path)
    assert json.loads(texts[".json"])["paired_tests"]["families"] == {}
    for title in (
        "TVQA, records 0123456789abcdef",
        "TVQA, records fedcba9876543210",
        "TVQA, protocol a2",
        "Social-IQ",
    ):
        assert f"**{title}**" in texts[".md"]
    assert "TVQA was probed on different records (0123456789abcdef, fedcba9876543210)" in texts[".md"]
    assert "chosen on the very questions" in texts[".md"]
    assert "does not say among how many answers" in texts[".md"]


def test_runs_of_one_strategy_keep_their_rows(tmp_path):
    for seed in range(2):
        write_probe(tmp_path / f"seed{seed}" / "probe", 0.5 + seed / 10, "random", rng=seed)
    markdown = written(tmp_path / "out", tmp_path)[".md"]
    main = markdown.split("**TVQA**")[1].split("**TVQA: each")[0]
    assert row(main, "random", "seed0/probe") and row(main, "random", "seed1/probe")


def test_one_seed_has_no_deviation_and_says_so(tmp_path):
    write_probe(tmp_path / "single", seeds=1)
    markdown = written(tmp_path / "out", tmp_path)[".md"]
    assert "One seed only, which says nothing about spread: single." in markdown
    (accuracy,) = json.loads((tmp_path / "single" / "probe.json").read_text())["accuracy"]["joint"]
    assert row(markdown.split("**TVQA**")[1].split("**TVQA: each")[0], "single", f"{100 * accuracy:.2f}")


def test_table_2_is_the_mean_of_validation_or_says_that_it_is_of_training(tmp_path):
    run = write_run(tmp_path / "run", "difference", inside=0.4)
    found = collect.collect([tmp_path]).runs[0]
    hidden = inside_boxes(found)
    assert (hidden.split, hidden.lines) == ("validation", 2)
    assert hidden.share == pytest.approx(0.4)  # of 0.375 at step 50 and 0.425 at step 100
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in lines if '"train"' in line))
    markdown = written(tmp_path / "out", run)[".md"]
    assert row(markdown, "difference (body)", "90.0", "train, mean of 10 lines", "40")
    (run / "metrics.jsonl").unlink()
    markdown = written(tmp_path / "out", run)[".md"]
    assert row(markdown.split("## What masking hid")[1], "difference (body)", "not measured", "40")
    assert "no curves: there is no metrics.jsonl" in markdown


def test_the_budget_into_boxes_stands_beside_table_2(tmp_path):
    write_run(tmp_path / "with", "difference", inside=0.4, budget=0.437)
    write_run(tmp_path / "without", "random")
    hidden = written(tmp_path / "out", tmp_path)[".md"].split("## What masking hid")[1]
    assert "budget into matching boxes, %" in hidden
    assert row(hidden, "difference (body)", "43.7") and row(hidden, "random", "—", "without")


def test_table_5_sets_face_against_body(tmp_path):
    write_probe(tmp_path / "face", 0.6, "difference", "face")
    markdown = written(tmp_path / "out", tmp_path)[".md"]
    box = markdown.split("## Face or body")[1].split("## ")[0]
    assert row(box, "difference (face)", "81.51", "linear", "train", "face")
    assert row(box, "difference (body)", "not measured", "81.73") and row(box, "random", "not measured", "73.75")


def test_a_run_that_did_not_say_its_dataset_is_unknown(tmp_path):
    write_run(tmp_path / "run", dataset=None)
    hidden = written(tmp_path / "out", tmp_path)[".md"].split("## What masking hid")[1]
    assert "**unknown**" in hidden
    assert row(hidden.split("## ")[0], "random", "—")


def test_curves_are_of_the_chosen_learning_rate_and_of_all_seeds(tmp_path):
    folder = write_probe(tmp_path / "probe", seeds=2)
    lines = [
        {"step": step, "split": "validation", "seed": seed, "learning_rate": rate, "joint": 0.1 * step + seed / 100}
        for step in (1, 2, 3)
        for seed in (0, 1)
        for rate in (1e-3, 1e-2)
        if (step, seed) != (3, 1)  # this one had stopped
    ]
    lines += [{"step": 1, "split": "train", "seed": 0, "learning_rate": 1e-3, "joint": 0.9}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text("not json\n" + text + '{"step": 4, "sp')
    found = collect.collect([tmp_path])
    curve = joint_by_epoch(found.probes[0])
    assert curve.epoch == [1, 2]
    assert curve.mean == pytest.approx([0.105, 0.205]) and curve.std == pytest.approx([0.01 / 2**0.5] * 2)
    assert [row.why for row in found.left_out] == ["line 1 of metrics.jsonl: broken"]


def test_values_that_are_no_numbers_cost_only_themselves(tmp_path):
    strange = '{"step": 1, "split": "validation", "joint": "x", "learning_rate": [], "seed": {}, "loss": "y"}\n'
    for folder in (write_run(tmp_path / "run"), write_probe(tmp_path / "probe", epoch=[float("nan"), 3, None])):
        kept = (folder / "metrics.jsonl").read_text()
        (folder / "metrics.jsonl").write_text(strange + kept)
    texts = written(tmp_path / "out", tmp_path)
    assert json.loads(texts[".json"])["probes"][0]["epoch"] == [3]
    assert texts[".html"].count("data:image/png;base64,") == 2


def test_names_are_escaped_in_every_format(tmp_path):
    strange = r"50%_of|them & <b>{x}$ #1 ~^\y"
    write_probe(tmp_path / "a" / strange, 0.5, strategy="my_own|<i>&")
    write_probe(tmp_path / "b" / "plain", 0.6)
    texts = written(tmp_path / "out", tmp_path)
    assert r"50%\_of\|them & \<b>{x}$ #1 \~^\\y" in texts[".md"] and r"my_own\|\<i>&" in texts[".md"]
    assert "50%_of|them &amp; &lt;b&gt;{x}$" in texts[".html"] and "<b>" not in texts[".html"]
    escaped = r"50\%\_of|them \& <b>\{x\}\$ \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}y"
    assert escaped in texts[".tex"]
    assert json.loads(texts[".json"])["probes"][1]["name"] == strange


def test_latex_is_whole(reported):
    """Every environment ends, braces match, and every row has as many cells as its table has columns."""
    _, out, texts = reported
    tex = texts[".tex"]
    body = re.sub(r"\\[{}]", "", tex.split(r"\begin{document}")[1])
    assert body.count("{") == body.count("}")
    open_ones = ["document"]
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            open_ones.append(name)
        else:
            assert open_ones.pop() == name
    assert not open_ones
    for columns, content in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", tex, re.DOTALL):
        for line in content.split("\n"):
            if line.endswith(r"\\"):
                assert len(re.findall(r"(?<!\\)&", line)) + 1 == len(columns)
    assert not re.search(r"[±—–−]", body), "signs that pdflatex may not have"
    for picture in re.findall(r"\\includegraphics\[.*?\]\{(.*?)\}", tex):
        assert (out / picture).is_file()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(reported):
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"],
        cwd=reported[1],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_users_mistake_ends_in_one_sentence(folders, tmp_path, capsys):
    for words, sentence in (
        ([str(tmp_path / "nowhere")], "nowhere is not a folder"),
        ([str(folders / "random" / "config.json")], "config.json is not a folder"),
        ([str(folders), "--surprise"], "do not know what to do with '--surprise'"),
    ):
        assert cli.main(["report", *words, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert sentence in error and error.count("\n") == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nothing to report: .*empty: holds no run"):
        report.report([tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file: give a folder"):
        report.report([folders], tmp_path / "file")


def test_the_command_prints_the_main_table(folders, tmp_path, capsys):
    assert cli.main(["report", str(folders), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("TVQA\n\n| strategy") and "81.73 ± 1.13" in printed
    assert printed.endswith(f"open {tmp_path / 'out' / 'report.html'}\n")


def test_other_programs_files_are_not_taken_for_runs(folders, tmp_path):
    (folders / "bert").mkdir()
    (folders / "bert" / "config.json").write_text('{"hidden_size": 768}')
    for inside in ("checkpoints", "features", "finetuned"):
        shutil.copytree(folders / "probe_random", folders / "random" / inside / "copy")
    found = collect.collect([folders])
    assert (len(found.runs), len(found.probes), found.left_out) == (2, 3, [])


def test_the_papers_cells_are_the_shared_ones(request):
    shared = request.getfixturevalue("shared_data").parent / "paper_tables.json"
    theirs = json.loads(shared.read_text())
    for table in ("table1", "table2", "table5", "table6"):
        rows = {row["method"]: row for row in theirs[table]["rows"]}
        mine = {row["method"]: row for row in paper.facts()[table]["rows"]}
        of_video = {name for name, row in rows.items() if row["TVQA"] is not None or row["Social-IQ"] is not None}
        assert mine.keys() == of_video
        assert all(rows[name][column] == row[column] for name, row in mine.items() for column in ("TVQA", "Social-IQ"))
    for method in paper.METHODS.values():
        for table in ("table1", "table2", "table5", "table6"):
            name = getattr(method, table)
            assert not name or name in {row["method"] for row in paper.facts()[table]["rows"]}


def test_strategies_have_the_papers_names():
    assert paper.strategy_id(None, None) == "none"
    assert paper.strategy_id("random", "body") == paper.strategy_id("random", "face") == "random"
    assert paper.strategy_id("difference", "face") == "difference_face"
    assert paper.strategy_id("new", "body") == "new" and paper.title("new") == "new"
    assert paper.cell("new", "tvqa", paper.ACCURACY) is None
    assert paper.cell("difference_body", "social_iq2", paper.ACCURACY) is None
    assert paper.cell("clip", "tvqa", paper.ACCURACY) == (73.58, None, "table6")
    assert tables.dataset_title("somewhere", None) == "somewhere"


def test_what_the_probe_writes_is_read(tmp_path):
    from mmdiff.probing import outcome
    from mmdiff.training import runs

    assert collect.BOX_BUDGET == runs.BOX_BUDGET
    names = (collect.CONFIG, collect.SUMMARY, collect.RECORDS, collect.METRICS, collect.TARGETS, collect.ANCHORS)
    assert names == (runs.CONFIG, runs.SUMMARY, runs.RECORDS, runs.METRICS, runs.TARGETS, runs.ANCHORS)
    assert (collect.PROBE, collect.PREDICTIONS, collect.METRICS, collect.VIEWS) == (
        outcome.RESULT,
        outcome.QUESTIONS,
        outcome.METRICS,
        outcome.PREDICTIONS,
    )
    before = json.loads((write_probe(tmp_path / "by_hand", 0.6) / "probe.json").read_text())
    stored = np.load(tmp_path / "by_hand" / "predictions.npz")
    correct = stored["correct"]
    measured = outcome.Outcome(
        id=stored["id"],
        video=stored["video"],
        answers=np.full(200, 5),
        train_questions=1600,
        correct=correct,
        last_correct=correct.mean(axis=1),
        epoch=[2, 3, 4],
        learning_rate=1e-3,
        grid=[],
        lines=[{"step": 1, "split": "validation", "seed": 0, "learning_rate": 1e-3, "loss": 1.0, "joint": 0.5}],
    )
    outcome.write_outcome(tmp_path / "by_probe", measured, {key: before[key] for key in about(before)})
    one, other = sorted(collect.collect([tmp_path]).probes, key=lambda probe: probe.name)
    for name in ("accuracy", "chance", "epoch", "questions", "dataset", "strategy", "coverage", "selection"):
        assert getattr(one, name) == getattr(other, name)
    assert np.array_equal(one.correct, other.correct) and joint_by_epoch(other).mean == [0.5]


def about(result: dict) -> set[str]:
    """What `mmdiff probe` says of a probe beside what came out."""
    wanted = {"checkpoint", "dataset", "protocol", "strategy", "where", "mode", "coverage", "selection", "records"}
    assert wanted <= result.keys()
    return wanted


def counted(tmp_path: Path) -> Path:
    """Runs that counted their targets, of two presets, and an older one that did not."""
    top = tmp_path / "counted"
    paper_s = {"preset": "paper", "unit": "patch", "hide_at": "output"}
    write_run(top / "random", "random", inside=0.17, targets=343, **paper_s)
    write_run(top / "body", "difference", inside=0.9, targets=150, **paper_s)
    write_run(top / "equal", "random", inside=0.17, targets=126, preset="equal_budget", unit="pooled", hide_at="output")
    write_run(top / "older", "random")
    return top


def test_targets_are_counted_window_by_window(tmp_path):
    top = counted(tmp_path)
    texts = written(tmp_path / "out", top)
    hidden = texts[".md"].split("## What masking hid")[1].split("## ")[0]
    inside, targets = hidden.split("**TVQA: targets**")
    for name in ("random", "body", "equal"):
        stored = json.loads((top / name / "targets.json").read_text())
        counts = np.array(stored["targets"])
        wanted = f"{counts.mean():.1f} ± {counts.std(ddof=1):.1f}", f"{counts.min()} to {counts.max()}"
        assert row(targets, name, *wanted, f"{100 * counts.sum() / (504 * 40):.1f}", stored["unit"], "output", "40")
        share = f"{100 * np.mean(stored['hidden_inside']):.1f}"
        assert row(inside, name, share, "validation, 40 windows", f"{100 * np.mean(stored['boxes_cover']):.1f}")
        found = next(run for run in json.loads(texts[".json"])["runs"] if run["name"] == name)
        assert found["targets"]["mean"] == pytest.approx(counts.mean()) and found["unit"] == stored["unit"]
        assert found["targets_of_each_window"]["targets"] == stored["targets"]
    assert row(targets, "older").count("—") == 5
    assert row(inside, "older", "20.0", "validation, mean of 2 lines")
    older = next(run for run in json.loads(texts[".json"])["runs"] if run["name"] == "older")
    assert (older["targets"], older["targets_of_each_window"], older["preset"]) == (None, None, None)
    assert "![Targets in each window, TVQA.](picture-2.png)" in hidden


def test_unequal_numbers_of_targets_are_said_to_forbid_comparing_losses(tmp_path):
    top = counted(tmp_path)
    text = written(tmp_path / "out", top)[".md"]
    assert "losses of such runs cannot be compared" in text
    low, high = (
        np.mean(json.loads((top / name / "targets.json").read_text())["targets"]) for name in ("equal", "random")
    )
    assert (
        f"TVQA: runs have from {low:.0f} targets a window (random, equal_budget) to {high:.0f} (random, paper)." in text
    )
    # Runs with whole pools hidden have as many targets each: nothing to warn of.
    assert "have from" not in written(tmp_path / "other", top / "equal")[".md"]
    assert "A target is" not in written(tmp_path / "older", top / "older")[".md"]


def test_hidden_patches_count_alike_whatever_their_window(tmp_path):
    """A window with more hidden patches weighs more: the share is of patches, as the paper's Table 2."""
    run = write_run(tmp_path / "run", targets=100, preset="paper", unit="patch", hide_at="output", windows=2)
    stored = json.loads((run / "targets.json").read_text())
    stored |= {"hidden": [300, 100], "hidden_inside": [0.1, 0.9], "patches": [1200, 400], "boxes_cover": [0.5, 0.1]}
    (run / "targets.json").write_text(json.dumps(stored))
    found = inside_boxes(collect.collect([tmp_path]).runs[0])
    assert (found.share, found.boxes_cover) == (pytest.approx(0.3), pytest.approx(0.4))


BROKEN_COUNTS = [
    (lambda t: t.pop("pools"), "targets.json lacks 'pools'"),
    (lambda t: t.pop("split"), "targets.json lacks 'split'"),
    (lambda t: t["targets"].pop(), "its lists differ in length"),
    (lambda t: t["hidden_inside"].__setitem__(3, float("nan")), "'hidden_inside' holds nan"),
    (lambda t: t["hidden_inside"].__setitem__(3, 1.5), "no share from 0 to 1"),
    (lambda t: t["targets"].__setitem__(0, -1), "'targets' holds a count below 0"),
    (lambda t: t["targets"].__setitem__(0, 3.5), "'targets' holds 3.5"),
    (lambda t: t["targets"].__setitem__(0, 10**30), "'targets' holds 1000"),
    (lambda t: t["pools"].__setitem__(0, None), "'pools' holds None"),
    (lambda t: t["window"].__setitem__(0, {}), "'window' holds {}"),
    (lambda t: t["targets"].__setitem__(0, 505), "more 'targets' than 'pools'"),
    (lambda t: t["hidden"].__setitem__(0, 2017), "more 'hidden' than 'patches'"),
    (lambda t: t.update(hidden="many"), "'hidden' is 'many', which is no list"),
    (lambda t: t.update({name: [] for name, x in t.items() if isinstance(x, list)}), "holds no window"),
]


def test_a_broken_count_costs_only_itself(tmp_path):
    top = counted(tmp_path)
    broken = in_copies(top / "body", BROKEN_COUNTS)
    for run, (damage, _) in broken.items():
        stored = json.loads((run / "targets.json").read_text())
        damage(stored)
        (run / "targets.json").write_text(json.dumps(stored))
    text = written(tmp_path / "out", top)[".md"]
    inside, targets = text.split("## What masking hid")[1].split("## ")[0].split("**TVQA: targets**")
    for run, (_, why) in broken.items():
        assert why in row(text.split("## Left out")[1], str(run))
        # The log still says how much lay inside.
        assert row(inside, "difference (body)", run.name, "90.0", "validation, mean of 2 lines")
        assert row(targets, "difference (body)", run.name).count("—") == 4
    assert "±" in row(targets, "random", "paper")


def test_runs_of_one_strategy_and_other_presets_are_told_apart_and_compared(tmp_path):
    top = counted(tmp_path)
    for number, name in enumerate(("random", "equal")):
        write_probe(top / f"probe_{name}", 0.5 + number / 5, "random", checkpoint=(top / name).resolve(), rng=number)
    texts = written(tmp_path / "out", top)
    accuracy = texts[".md"].split("**TVQA**")[1].split("**TVQA: each")[0]
    assert row(accuracy, "random, paper", "probe_random") and row(accuracy, "random, equal_budget", "probe_equal")
    ((pair,),) = json.loads(texts[".json"])["paired_tests"]["families"].values()
    assert {Path(pair["first"]).name, Path(pair["second"]).name} == {"probe_random", "probe_equal"}


def configure(run: Path, **fields) -> None:
    """Sets fields of a run's configuration, as section__field."""
    config = json.loads((run / "config.json").read_text())
    for path, value in fields.items():
        section, name = path.split("__")
        config.setdefault(section, {})[name] = value
    (run / "config.json").write_text(json.dumps(config))


def test_runs_of_one_strategy_are_told_apart_by_every_field_that_differs(tmp_path):
    usual = {"preset": "paper", "unit": "patch", "hide_at": "output"}
    configure(write_run(tmp_path / "a", "random", **usual), masking__static=True, masking__alpha=1.0)
    changed = {
        "masking__ratio": 0.5,
        "masking__static": False,
        "masking__alpha": 0.5,
        "anchors__words": ["Penny", "cup"],
    }
    configure(write_run(tmp_path / "b", "random", **usual), **changed)
    configure(write_run(tmp_path / "c", "difference", **usual), masking__ratio=0.1)
    found = {run.name: run.variant for run in analysis.told_apart(collect.collect([tmp_path])).runs}
    assert found == {
        "a": "anchors person, alpha 1, ratio 0.25, static",
        "b": "anchors Penny / cup, alpha 0.5, ratio 0.5, not static",
        "c": "",
    }
    # What a preset sets needs no words beside its name; what was changed in it does.
    write_run(tmp_path / "d", "random", preset="equal_budget", unit="pooled", hide_at="output")
    write_run(tmp_path / "e", "random", preset="mmdiff", unit="patch", hide_at="input")
    found = {run.name: run.variant for run in analysis.told_apart(collect.collect([tmp_path])).runs}
    assert found["d"] == "equal_budget, anchors person, ratio 0.25"
    assert found["e"] == "mmdiff, anchors person, ratio 0.25, unit patch"
    assert found["a"] == "paper, anchors person, alpha 1, ratio 0.25, static" and found["c"] == "paper"


def test_a_run_that_does_not_say_its_unit_is_not_tested_against_one_that_does(tmp_path):
    older = write_run(tmp_path / "older", "random", preset="paper")
    newer = write_run(tmp_path / "newer", "random", preset="paper", unit="patch", hide_at="output")
    pooled = write_run(tmp_path / "pooled", "random", preset="paper", unit="pooled", hide_at="output")
    for number, run in enumerate((older, newer, pooled)):
        write_probe(tmp_path / f"probe_{run.name}", 0.5, checkpoint=run.resolve(), rng=number)
    texts = written(tmp_path / "out", tmp_path)
    (family,) = json.loads(texts[".json"])["paired_tests"]["families"].values()
    pairs = {frozenset((Path(pair["first"]).name, Path(pair["second"]).name)) for pair in family}
    assert pairs == {frozenset(("probe_pooled", "probe_older")), frozenset(("probe_pooled", "probe_newer"))}
    accuracy = texts[".md"].split("**TVQA**")[1].split("**TVQA: each")[0]
    assert row(accuracy, "random, unit patch", "probe_older") and row(accuracy, "random, unit pooled", "probe_pooled")


def test_a_probe_whose_run_is_not_there_is_not_tested_against_one_of_its_strategy(tmp_path):
    top = counted(tmp_path)
    write_probe(top / "probe_here", 0.5, "random", checkpoint=(top / "random").resolve())
    write_probe(top / "probe_there", 0.6, "random", rng=1)
    write_probe(top / "probe_other", 0.7, "difference", "body", rng=2)
    texts = written(tmp_path / "out", top)
    tests = json.loads(texts[".json"])["paired_tests"]
    (family,) = tests["families"].values()
    assert len(family) == 2, "another strategy is another strategy"
    assert len(tests["refused"]) == 1 and "the run that probe_there is of is not among the folders" in texts[".md"]


def test_table_2_of_the_paper_stands_beside_boxes_of_people_only(tmp_path):
    usual = {"targets": 100, "preset": "paper", "unit": "patch", "hide_at": "output"}
    write_run(tmp_path / "people", "difference", **usual)
    configure(write_run(tmp_path / "penny", "difference", **usual), anchors__words=["Penny"], masking__min_coverage=0.5)
    found = write_run(tmp_path / "found", "difference", **usual)
    (found / "anchors.json").write_text(json.dumps({"words": ["person", "lab"]}))
    texts = written(tmp_path / "out", tmp_path)
    hidden = texts[".md"].split("## What masking hid")[1].split("**TVQA: targets**")[0]
    assert row(hidden, "people", "person", "40") and row(hidden, "penny", "Penny", "0.5")
    assert "| 40 " not in row(hidden, "penny", "Penny") + row(hidden, "found", "person, lab")
    cells = {run["name"]: run["paper_percent"] for run in json.loads(texts[".json"])["runs"]}
    assert cells["people"]["mean"] == 40 and cells["penny"] is cells["found"] is None


def test_what_older_runs_did_is_what_the_defaults_do():
    from mmdiff.training import config

    usual = config.PretrainConfig()
    assert {path: config.get_field(usual, path) for path in collect.DEFAULTS} == collect.DEFAULTS
    assert collect.MOVED == config.MOVED


def test_curves_in_several_pictures_are_counted_and_share_their_axes(tmp_path, monkeypatch):
    from mmdiff.reports import plots

    panels, whole = {}, plots._panel

    def kept(figure, place, title, x):
        panels.setdefault(title, []).append(whole(figure, place, title, x))
        return panels[title][-1]

    monkeypatch.setattr(plots, "_panel", kept)
    for number in range(len(plots.COLOURS) + 1):
        write_run(tmp_path / f"run{number}", "random", inside=0.05 * number)
    text = written(tmp_path / "out", tmp_path)[".md"]
    assert "Continued pretraining, TVQA (1 of 2)." in text and "TVQA (2 of 2)." in text
    for one, other in (panels[name] for name in ("loss", "hidden inside person")):
        assert one.get_ylim() == other.get_ylim()
        assert all(
            one.get_ylim()[0] <= y <= one.get_ylim()[1] for line in (*one.lines, *other.lines) for y in line.get_ydata()
        )


def test_table_6_sets_clip_against_boxes(tmp_path):
    write_probe(tmp_path / "clip", 0.6, "clip")
    text = written(tmp_path / "out", tmp_path)[".md"]
    table = text.split("## Boxes or CLIP")[1].split("## ")[0]
    assert row(table, "CLIP similarity", "73.58", "linear", "clip")
    assert row(table, "difference (body)", "not measured", "81.73")
    assert "73.58" in row(text.split("**TVQA**")[1].split("**TVQA: each")[0], "CLIP similarity", "clip")


def test_curves_show_the_masked_loss_and_the_targets_where_runs_log_them(tmp_path, monkeypatch):
    from mmdiff.reports import plots, sections

    panels = []
    whole = plots._panel
    monkeypatch.setattr(
        plots, "_panel", lambda figure, place, title, x: panels.append(title) or whole(figure, place, title, x)
    )
    written(tmp_path / "older", write_run(tmp_path / "a"))
    assert panels == ["loss", "accuracy", "hidden inside person"]
    panels.clear()
    written(tmp_path / "new", write_run(tmp_path / "b", targets=100, preset="paper", unit="patch", hide_at="output"))
    assert panels[:5] == [name.replace("_", " ") for name in sections.CURVES]


def test_every_strategy_of_the_program_has_a_row_and_every_cell_of_the_paper_a_strategy():
    from mmdiff.masking.strategies import STRATEGIES

    named = {paper.strategy_id(name, where) for name in STRATEGIES for where in ("body", "face", "both")}
    assert named == paper.METHODS.keys() - {"none"}
    for table in ("table1", "table2", "table5", "table6"):
        rows = {row["method"] for row in paper.facts()[table]["rows"]}
        assert rows == {getattr(method, table) for method in paper.METHODS.values()} - {""}
    assert paper.cell("difference_both", "tvqa", (*paper.ACCURACY, "table2")) is None
    assert paper.cell("attn", "social_iq", ("table2",)) == (19.0, None, "table2")
    assert paper.cell("mst", "tvqa", paper.ACCURACY) == (81.14, 0.3, "table1")
    assert paper.cell("clip", "social_iq", ("table6",)) == (68.75, None, "table6")
