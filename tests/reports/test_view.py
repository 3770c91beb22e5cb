"""`mmdiff view`: strategies, or runs, side by side on the same frames; and one sentence where that cannot be."""

import dataclasses
import functools
import json
import re
import shutil

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmdiff import cli
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.masking.strategies import with_strategy
from mmdiff.reports import mask_pictures, view
from mmdiff.reports.hidden_share import COVER, INSIDE
from mmdiff.reports.viewed_runs import open_runs
from mmdiff.training import runs
from mmdiff.training.checkpoints import Checkpoints, Progress
from mmdiff.training.config import apply_preset, to_json, with_absolute_paths
from mmdiff.training.optimizer import make_optimizer
from mmdiff.training.pretrain import pretrain, run_keys
from mmdiff.training.train_step import first_state

ROOT = tiny.Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs" / "video_folder.py") + ":difference"
EVERY = ("random", "difference_body", "difference_face", "difference_both", "attn", "mst", "clip")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records with boxes and similarities, one clip without boxes, and one of another shape."""
    train = [tiny.record(0, similarity=True), tiny.record(1, boxes=False), tall(tiny.record(2, similarity=True))]
    train.append(dataclasses.replace(tiny.record(3, segments=1, similarity=True), video="short.mp4"))
    return tiny.write_dataset(tmp_path_factory.mktemp("records"), train, VALIDATION)


def tall(record):
    """The same with frames as of a telephone."""
    frame = cv2.imencode(".jpg", np.full((256, 60, 3), 120, np.uint8))[1].tobytes()
    return dataclasses.replace(record, frames=[frame] * len(record.frames))


# A whole window, one of another shape and one with padding.
VALIDATION = [tiny.record(9), tall(tiny.record(10)), tiny.record(11, segments=1)]


@pytest.fixture(scope="module")
def trained(records, tmp_path_factory):
    """A run that is at its only step, and the same as if its strategy had been another.

    It has not taken the step: that would be most of the time, and no picture would be another.
    """
    top = tmp_path_factory.mktemp("runs")
    config = tiny.config(records, steps=1, batch_size=8)
    config.masking = with_strategy(config.masking, "attn")
    (top / "attn").mkdir()
    (top / "attn" / "config.json").write_text(to_json(with_absolute_paths(config)))
    checkpoints = Checkpoints(top / "attn" / "checkpoints")
    checkpoints.save(1, state_after(1, config), Progress(best_loss=1.0, best_step=1, evaluated_step=1))
    checkpoints.close()
    pretrain(config, top / "attn", progress_bar=False)
    shutil.copytree(top / "attn", top / "difference_face")
    config.masking = with_strategy(config.masking, "difference_face")
    (top / "difference_face" / "config.json").write_text(to_json(with_absolute_paths(config)))
    return top


def state_after(step: int, config):
    """The state of a run whose steps changed nothing."""
    tokenizer = Tokenizer(config.data.tokenizer)
    _, params = runs.build_model(config.model, tokenizer, run_keys(config.train.seed)[0])
    first = functools.partial(first_state, optimizer=make_optimizer(config.optimizer, config.train.steps))
    return jax.jit(first)(params)._replace(step=jnp.int32(step))


def words(records) -> list[str]:
    """The tiny configuration as words of a command line."""
    made, out = tiny.config(records), []
    for section, names in {
        "data": ("records", "tokenizer", "segments", "text_length"),
        "model": ("rows", "columns", "hidden_size", "vision_layers", "audio_layers", "joint_layers", "span_layers"),
    }.items():
        out += [f"--config.{section}.{name}={getattr(getattr(made, section), name)}" for name in names]
    return [*out, "--config.model.dtype=float32"]


def said(capsys, *arguments) -> str:
    """The sentence a mistake ends in."""
    assert cli.main(["view", *map(str, arguments)]) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("mmdiff view: ") and "\n" not in text and "Traceback" not in text
    return text


def test_every_strategy_is_shown_on_the_same_frames(records, tmp_path, caplog):
    asked = ["--config", CONFIG, "--out", str(tmp_path / "view"), "--strategies", ",".join(EVERY), "--clips", "4"]
    assert cli.main(["view", *asked, *words(records)]) == 0
    assert caplog.text.count("random weights") == 1
    html = (tmp_path / "view" / "index.html").read_text(encoding="utf-8")
    assert "random weights make of the frames" in html
    for name in EVERY:
        assert html.count(f"<td>{name}</td>") == 5, "once for each clip and once for all"
    # Of the clip of one frame there is nothing to show over time.
    assert html.count("data:image/webp") == 4 + 3
    assert len(list((tmp_path / "view").glob("sheet_*.png"))) == 4 + 3


def test_a_picture_says_what_the_masks_say(records):
    config = tiny.config(records)
    maskings = {name: with_strategy(config.masking, name) for name in EVERY}
    sheets = {sheet.title.split(",")[0]: sheet for sheet in mask_pictures.mask_sheets(config, maskings, ["train"], 4)}
    sheet = sheets["clip0.mp4"]
    assert [row.name for row in sheet.rows] == list(EVERY)
    for row, every, count in zip(sheet.rows, sheet.every_frame[1:], sheet.counts, strict=True):
        assert sum(int(frame.hidden.sum()) for frame in every.frames) == count["hidden"] > 0, row.name
        assert sum(int(frame.pooled.sum()) for frame in every.frames) == count["targets"]
    by_name = dict(zip(EVERY, sheet.rows, strict=True))
    assert by_name["random"].frames[0].heat is None and by_name["random"].note == "every patch is wanted alike"
    body, face, both = (
        np.isfinite([frame.heat for frame in by_name[f"difference_{where}"].frames])
        for where in ("body", "face", "both")
    )
    assert face.sum() < body.sum() == both.sum() and (both == (body | face)).all()
    # Attention and its inverse are opposite colours.
    high, low = (np.array([frame.heat for frame in by_name[name].frames]) for name in ("attn", "mst"))
    assert high + low == pytest.approx(np.ones_like(high), abs=1e-4) and 0 < np.ptp(high)
    similar = np.array([frame.heat for frame in by_name["clip"].frames])
    assert np.nanmean(similar[body]) > np.nanmean(similar[~body])
    assert "no patch is wanted" in dict(zip(EVERY, sheets["clip1.mp4"].rows, strict=True))["difference_body"].note
    # The black beside a picture of another shape is not shown: 4 rows of patches hold one column of it.
    assert sheets["clip2.mp4"].rows[0].frames[0].hidden.shape == (4, 2)


def test_runs_are_shown_side_by_side_with_a_page_each(trained, tmp_path, caplog):
    runs = [str(trained / name) for name in ("difference_face", "attn")]
    assert cli.main(["view", runs[0], "--out", str(tmp_path / "view"), "--clips", "2", runs[1]]) == 0
    assert "random weights" not in caplog.text
    index = (tmp_path / "view" / "index.html").read_text(encoding="utf-8")
    assert '<a href="run_attn.html">attn: highest attention (AttnMask), paper</a>' in index
    assert "difference_face: difference (face), paper" in index
    page = (tmp_path / "view" / "run_difference_face.html").read_text(encoding="utf-8")
    for part in ('href="index.html"', 'href="run_attn.html"', "<td>face</td>", "Anchors: person.", "<td>person</td>"):
        assert part in page
    counted = json.loads((trained / "difference_face" / "targets.json").read_text())
    targets = np.array(counted["targets"])
    assert f"{targets.mean():.1f} ± {targets.std(ddof=1):.1f}</td>" in page
    assert f"{targets.min()} to {targets.max()}</td>" in page
    assert page.count("data:image/webp") == 2 * 2
    assert not re.findall(r'(?:src|href)="(?!data:|#|run_\w+\.html|index\.html)', index + page)


def test_what_a_run_found_and_counted_is_on_its_page(trained, records, tmp_path):
    run = tmp_path / "copy & <b>"
    shutil.copytree(trained / "attn", run)
    anchors = json.loads((run / "anchors.json").read_text())
    anchors["words"].append("lab<oratory>")
    anchors["found"] = [{"word": "lab<oratory>", "count": 41, "general_count": 7000, "tf_icf": 12.5}]
    (run / "anchors.json").write_text(json.dumps(anchors))
    (run / "targets.json").write_text("{}")
    view.view_runs([run], tmp_path / "out", "validation", 1, None)
    page = (tmp_path / "out" / "run_copy_b_.html").read_text(encoding="utf-8")
    for part in ("Anchors: person, lab&lt;oratory&gt;.", "12.5", ">41<", "7,000", "Not measured: targets.json lacks"):
        assert part in page
    assert "<b>" not in page


def test_a_run_without_a_model_yet_is_shown_with_random_weights_and_says_so(trained, tmp_path, caplog):
    run = tmp_path / "young"
    shutil.copytree(trained / "attn", run)
    (run / "model.safetensors").unlink()
    view.view_runs([run, trained / "difference_face"], tmp_path / "out", "validation", 1, None)
    assert caplog.text.count("random weights") == 1
    for page, said in (("index.html", "young: The run has kept no model yet"), ("run_young.html", "random weights")):
        assert said in (tmp_path / "out" / page).read_text(encoding="utf-8")
    assert "kept no model" not in (tmp_path / "out" / "run_difference_face.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", ["official_code", "mmdiff"])  # between them they change all that counts
def test_the_counts_of_a_run_that_is_looked_at_are_its_own(trained, records, preset, tmp_path):
    config = tiny.config(records, steps=1, batch_size=8)
    apply_preset(config, preset)
    config.data.include_answers, config.optimizer.state = False, "float32"
    config.masking = with_strategy(config.masking, "attn" if preset == "mmdiff" else "difference_body")
    run = tmp_path / "run"
    shutil.copytree(trained / "attn", run)
    (run / "targets.json").unlink()
    # As if it had been started so: it is at its last step, and only counts.
    (run / "config.json").write_text(to_json(with_absolute_paths(config)))
    pretrain(config, run, progress_bar=False)
    (viewed,) = open_runs([run], None)
    model = mask_pictures.open_model([viewed.config], viewed.tokenizer)
    look = mask_pictures.open_look("run", viewed.config, viewed.tokenizer, model, viewed.anchors)
    stored = json.loads((run / "targets.json").read_text())
    assert len(stored["window"]) == 3
    for record in VALIDATION:
        example = look.example(record, 0)
        (count,) = mask_pictures.mask_sheet(record, 0, [look]).counts
        place = stored["window"].index(int(example.id))
        for name in ("patches", "hidden", "targets"):
            assert count[name] == stored[name][place], (record.id, name)
        for name, column in (("hidden_inside", INSIDE), ("boxes_cover", COVER)):
            assert count[column] == pytest.approx(100 * stored[name][place], abs=1e-4), (record.id, name)


def test_where_pools_are_hidden_a_pool_is_drawn_as_wanted_as_its_best_patch(records):
    config = tiny.config(records)
    config.masking.unit = "pooled"
    maskings = {name: with_strategy(config.masking, name) for name in ("difference_body", "mst")}
    sheet, *_ = mask_pictures.mask_sheets(config, maskings, ["train"], 1)
    for row in sheet.rows:
        for frame in row.frames:
            pools = frame.heat.reshape(frame.heat.shape[0] // 2, 2, -1, 2).swapaxes(1, 2).reshape(-1, 4)
            assert (np.isnan(pools) == np.isnan(pools[:, :1])).all() and not np.nan_to_num(np.ptp(pools, axis=1)).any()
    wanted = sum(int(np.isfinite(frame.heat).sum()) for frame in sheet.rows[0].frames)
    count = sheet.counts[0]["patches"]
    assert sheet.rows[0].note.startswith(f"{100 * wanted / count:.0f}% of the patches are wanted")


def test_what_an_earlier_view_left_is_removed_and_other_files_stay(trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("run_gone.html", "sheet_07.png", "sheet_00_over_time_3.png", "mine.html"):
        (out / name).write_text("old")
    view.view_runs([trained / "attn"], out, "validation", 1, None)
    assert sorted(path.name for path in out.iterdir()) == [
        "index.html", "mine.html", "run_attn.html", "sheet_00.png", "sheet_00_over_time_0.png"
    ]  # fmt: skip


def test_a_run_says_what_is_not_the_papers_and_what_its_pictures_do_not_show(trained, tmp_path):
    run = tmp_path / "changed"
    shutil.copytree(trained / "attn", run)
    stored = json.loads((run / "config.json").read_text())
    stored["objective"]["target_momentum"], stored["masking"]["mask_padding"] = 0.99, True
    stored["train"]["seed"] = 17
    # An older version had the anchors elsewhere, and some fields not at all.
    stored["masking"]["anchors"] = stored.pop("anchors")["words"]
    del stored["masking"]["unit"]
    (run / "config.json").write_text(json.dumps(stored))
    view.view_runs([run], tmp_path / "out", "validation", 1, None)
    page = (tmp_path / "out" / "run_changed.html").read_text(encoding="utf-8")
    for part in ("slowly moving copy", "Padding is hidden, too", "objective.target_momentum", "<td>0.99</td>", "17"):
        assert part in page
    assert "key of step 0" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_mistakes_are_explained(trained, records, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    asked = ("--config", CONFIG, *out, *words(records))
    assert "known: random, difference, attn, mst, clip" in said(capsys, *asked, "--strategies", "random, rondom")
    many = [*EVERY, *(f"mine:{number}" for number in range(6))]
    assert "13 strategies are too many" in said(capsys, *asked, "--strategies", ",".join(many))
    assert "has no split 'dev'" in said(capsys, *asked, "--split", "dev")
    assert "needs its value behind an equals sign" in said(
        capsys, "--config", CONFIG, *out, "--config.masking.ratio", "0.3"
    )
    assert "--config is missing" in said(capsys, *out)
    assert "not both" in said(capsys, trained / "attn", *asked)
    assert "--records is for folders of runs" in said(capsys, *asked, "--records", records)
    (tmp_path / "file").write_text("")
    assert "is a file" in said(capsys, trained / "attn", "--out", tmp_path / "file")
    assert "not the folder of a run: it has no config.json" in said(capsys, tmp_path, *out)
    assert "holds other records than" in said(capsys, trained / "attn", *out, "--records", other(tmp_path))
    run = tmp_path / "run"
    shutil.copytree(trained / "attn", run)
    stored = (run / "config.json").read_text()
    (run / "config.json").write_text(stored.replace('"ratio"', '"share"'))
    assert "not that of a run of this mmdiff" in said(capsys, run, *out)
    (run / "config.json").write_text("{}")
    assert "not that of a run of `mmdiff pretrain`" in said(capsys, run, *out)
    (run / "config.json").write_text(stored.replace('"rows": 4', '"rows": 6'))
    assert "different patches or windows" in said(capsys, run, trained / "attn", trained / "difference_face", *out)
    for right, wrong, sentence in (
        ('"ratio": 0.25', '"ratio": "much"', "masking.ratio is 'much', which is no float"),
        ('"segments": 2', '"segments": [2]', "data.segments is [2], which is no int"),
        ('"static": true', '"static": 1', "masking.static is 1, which is no bool"),
        ('"ratio": 0.25', '"ratio": 2.5', "masking.ratio=2.5 must lie between 0 and 1"),
    ):
        assert right in stored
        (run / "config.json").write_text(stored.replace(right, wrong))
        assert sentence in said(capsys, run, *out)
    (run / "config.json").write_text(json.dumps(json.loads(stored) | {"model": 3}))
    assert "model is 3, which is no section" in said(capsys, run, *out)
    (run / "config.json").write_text(stored.replace(str(records), str(tmp_path / "moved")))
    assert "give their folder as --records" in said(capsys, run, *out)
    (run / "config.json").write_text(stored)
    kept = json.loads((run / "anchors.json").read_text())
    word = {"word": "lab", "count": 41, "general_count": 7000, "tf_icf": 12.5}
    for wrong in (
        {"words": "person"},
        {"found": [word | {"count": "many"}]},
        {"found": [word | {"tf_icf": None}]},
        {"labels": {"person": 3}},
        {"labels": {"person": "nan"}},
        {"labels": ["person"]},
    ):
        (run / "anchors.json").write_text(json.dumps(kept | wrong))
        assert "is not what a run keeps of its anchors" in said(capsys, run, *out)
    (run / "anchors.json").write_text(json.dumps(kept))
    (run / "records.digest").write_bytes(b"\xff\xfe")
    assert "holds other records than" in said(capsys, run, *out)
    (run / "records.digest").write_text("0123456789abcdef")
    sentence = said(capsys, run, trained / "attn", trained / "difference_face", *out)
    assert "are of different records" in sentence and f"leave out {run}, or view them apart" in sentence


def other(tmp_path):
    return tiny.write_dataset(tmp_path / "other", [tiny.record(5)], [])


def test_a_strategy_is_refused_where_the_records_lack_what_it_looks_at(tmp_path, capsys):
    records = other(tmp_path)
    sentence = said(
        capsys, "--config", CONFIG, "--out", tmp_path / "out", *words(records), "--strategies", "random,clip"
    )
    assert "--clip MODEL" in sentence
