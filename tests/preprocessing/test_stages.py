"""Detection and building apart: boxes to look at, to correct and to bring back."""

import dataclasses
import fcntl
import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clips import BRIGHT_SQUARE, make_clip, nobody, walking_square

from mmdiff.data import records
from preprocessing.build import Options, preprocess
from preprocessing.import_boxes import Sampled
from preprocessing.imports.on_pictures import ImportedClip
from preprocessing.problems import PreprocessError

QUICK = Options(detector=BRIGHT_SQUARE, workers=0, windows="tiles", validation_share=0.0)


def run(videos, out, **changes):
    return preprocess(videos, out, dataclasses.replace(QUICK, **changes), progress=False)


def contents(out) -> dict[str, str]:
    files = [*out.glob("video_folder/*/*array_record*"), out / "boxes.parquet"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(out) -> list[records.Record]:
    return [records.decode(example) for example in records.read_split(out, "train")]


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    make_clip(folder / "walks.mp4", walking_square(6))
    make_clip(folder / "nobody.mp4", nobody(4))
    return folder


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run(films, out)


@pytest.fixture
def detected(films, tmp_path):
    out = tmp_path / "detected"
    return out, run(films, out, stage="detect")


def test_boxes_stand_in_a_table_beside_the_records(whole):
    table = pq.read_table(whole[0] / "boxes.parquet").to_pydict()
    assert set(table["video"]) == {"walks.mp4"} and table["frame"] == list(range(18))
    np.testing.assert_allclose(table["time"], np.arange(18) / 3)
    assert set(table["track"]) == {0} and set(table["source"]) == {"detected"} and set(table["width"]) == {160}
    np.testing.assert_allclose(np.subtract(table["x1"], table["x0"]), 24, atol=2)
    np.testing.assert_allclose(table["y0"], 30, atol=2)


def test_detection_alone_writes_boxes_and_no_records(detected, whole):
    out, summary = detected
    assert summary.stage == "detect" and summary.records == {} and not (out / "video_folder").exists()
    assert summary.boxes == whole[1].boxes and "records: none yet" in summary.describe()
    assert (out / "boxes.parquet").read_bytes() == (whole[0] / "boxes.parquet").read_bytes()


def test_building_after_detecting_looks_at_no_video_and_gives_the_same_bytes(films, detected, whole):
    summary = run(films, detected[0], stage="build")
    assert summary.detected == 0 and summary.stage == "build" and summary.version == whole[1].version
    assert contents(detected[0]) == contents(whole[0])
    assert run(films, detected[0]).already_done


def test_building_before_detecting_says_what_to_do(films, tmp_path):
    with pytest.raises(PreprocessError, match="2 of 2 videos have not been looked at.*--stage detect"):
        run(films, tmp_path / "out", stage="build")


def test_a_build_that_is_refused_leaves_the_records_that_are_there(films, whole, tmp_path):
    out, more = shutil.copytree(whole[0], tmp_path / "out"), shutil.copytree(films, tmp_path / "films")
    manifest = json.loads((out / "preprocess.json").read_text())
    (out / "preprocess.json").write_text(json.dumps(manifest | {"videos": str(more)}))
    make_clip(more / "new.mp4", nobody(1))
    with pytest.raises(PreprocessError, match="of 3 videos have not been looked at"):
        run(more, out, stage="build")
    assert contents(out) == contents(whole[0])


def test_building_after_another_detection_is_refused(films, detected):
    with pytest.raises(PreprocessError, match="threshold was None and is now 0.5"):
        run(films, detected[0], stage="build", threshold=0.5)


def moved(table: pa.Table) -> pa.Table:
    """All boxes ten pixels lower, of somebody with a name."""
    for edge in ("y0", "y1"):
        place = table.schema.get_field_index(edge)
        table = table.set_column(place, edge, pa.array(np.asarray(table[edge]) + 10))
    return table.set_column(table.schema.get_field_index("label"), "label", pa.array(["Ann"] * len(table)))


def test_corrected_boxes_are_built_from(films, detected, whole, tmp_path):
    out, _ = detected
    pq.write_table(moved(pq.read_table(out / "boxes.parquet")), tmp_path / "mine.parquet")
    summary = run(films, out, stage="build", boxes=tmp_path / "mine.parquet")
    assert summary.detected == 0
    walks = next(record for record in read(out) if record.video == "walks.mp4")
    assert set(walks.boxes.label) == {"Ann"}
    np.testing.assert_allclose(walks.boxes.box[:, 0] * 90, 40, atol=2)
    assert set(pq.read_table(out / "boxes.parquet")["label"].to_pylist()) == {"Ann"}  # the records' boxes
    assert run(films, out, stage="build", boxes=tmp_path / "mine.parquet").already_done
    assert run(films, out).sources == {"detected": 18}  # and back to what was found
    assert (out / "boxes.parquet").read_bytes() == (whole[0] / "boxes.parquet").read_bytes()


def test_a_table_that_was_changed_in_its_place_is_not_lost(films, detected):
    out, _ = detected
    pq.write_table(moved(pq.read_table(out / "boxes.parquet")), out / "boxes.parquet")
    with pytest.raises(PreprocessError, match="was changed after it was written.*--boxes"):
        run(films, out)
    assert set(pq.read_table(out / "boxes.parquet")["label"].to_pylist()) == {"Ann"}
    edited = (out / "boxes.parquet").read_bytes()
    run(films, out, boxes=out / "boxes.parquet")
    assert (out / "boxes.parquet").read_bytes() == edited and run(films, out, boxes=out / "boxes.parquet").already_done
    assert set(read(out)[1].boxes.label) | set(read(out)[0].boxes.label) == {"Ann"}


def test_coco_that_was_changed_in_its_place_is_not_lost(films, tmp_path):
    out, coco = tmp_path / "out", tmp_path / "out" / "boxes.coco.json"
    run(films, out, stage="detect", coco=True)
    edited = json.loads(coco.read_text())
    del edited["annotations"][0]
    coco.write_text(json.dumps(edited))
    with pytest.raises(PreprocessError, match="boxes.coco.json was changed after it was written"):
        run(films, out)
    summary = run(films, out, stage="build", boxes=coco)
    assert summary.sources == {"detected": 17} and json.loads(coco.read_text()) == edited


def test_the_rate_of_an_imported_file_may_be_told_after_detection(films, detected, tmp_path):
    mot = tmp_path / "walks.txt"
    mot.write_text("3,1,10,30,24,24,1\n")
    boxes_at = {}
    for rate in (3.0, 1.0):
        run(films, detected[0], stage="build", boxes=mot, import_fps=rate)
        boxes_at[rate] = pq.read_table(detected[0] / "boxes.parquet")["time"].to_pylist()
    assert boxes_at[3.0] == pytest.approx([2 / 3]) and boxes_at[1.0] == pytest.approx([2.0])


def test_numbers_of_frames_are_doubted_where_the_video_keeps_no_steady_rate():
    mot = ImportedClip(*(np.array([np.nan]), np.array([30.0]), np.array([np.nan])), np.array([[0.0, 0, 9, 9]]),
        np.full((1, 2), np.nan), ["person"], ["body"], np.ones(1), ["imported"], np.zeros(1, np.int64))  # fmt: skip
    steady, uneven = (mot.on(Sampled("a.mp4", 3.0, 12, 160, 90, 10.0, drift)).problem for drift in (0.05, 0.4))
    assert steady is None and "up to 0.4 s off a steady rate" in uneven


def test_a_finished_folder_whose_table_was_changed_is_not_called_done(films, whole, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "out")
    pq.write_table(moved(pq.read_table(out / "boxes.parquet")), out / "boxes.parquet")
    with pytest.raises(PreprocessError, match="was changed after it was written"):
        run(films, out)
    (out / "boxes.parquet").unlink()
    assert not run(films, out).already_done and contents(out) == contents(whole[0])


def test_two_runs_do_not_work_in_one_folder(films, tmp_path):
    (tmp_path / "out").mkdir()
    with (tmp_path / "out" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(PreprocessError, match="another run is at work in"):
            run(films, tmp_path / "out")
    assert run(films, tmp_path / "out", stage="detect").videos == 2


def test_boxes_made_elsewhere_take_the_place_of_a_detector(films, whole, tmp_path):
    table = pq.read_table(whole[0] / "boxes.parquet").to_pylist()
    mot = tmp_path / "walks.txt"  # frames counted from 1 at the video's own 10 a second
    mot.write_text(
        "".join(
            f"{round(row['time'] * 10) + 1},7,{row['x0']},{row['y0']},{row['x1'] - row['x0']},{row['y1'] - row['y0']},0.8\n"
            for row in table
        )
    )
    summary = run(films, tmp_path / "out", detector=f"import:{mot}")
    assert summary.boxes["body"] >= 14 and set(summary.sources) <= {"imported", "filled"}
    walks = next(record for record in read(tmp_path / "out") if record.video == "walks.mp4")
    assert len(walks.boxes.frame) and (tmp_path / "out" / "preprocess.json").read_text().count("import:") == 1


def test_an_import_that_is_not_there_is_refused_before_any_work(films, tmp_path):
    for changes in ({"detector": "import:gone.json"}, {"boxes": tmp_path / "gone.json"}):
        with pytest.raises(PreprocessError, match="gone.json"):
            run(films, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_coco_is_written_where_asked_for(films, tmp_path):
    run(films, tmp_path / "out", stage="detect", coco=True)
    coco = json.loads((tmp_path / "out" / "boxes.coco.json").read_text())
    assert len(coco["annotations"]) == 18 and len(coco["images"]) == 18 + 12
    assert run(films, tmp_path / "out", stage="detect").already_done


def test_other_weights_under_the_same_name_are_another_detector(films, tmp_path, monkeypatch):
    monkeypatch.setattr("preprocessing.build.digest_of_weights", lambda detector: "one")
    run(films, tmp_path / "out", stage="detect")
    monkeypatch.setattr("preprocessing.build.digest_of_weights", lambda detector: "other")
    with pytest.raises(PreprocessError, match="weights was 'one' and is now 'other'"):
        run(films, tmp_path / "out", stage="detect")


def test_the_version_says_whether_records_are_the_same(films, whole, tmp_path):
    assert run(films, tmp_path / "same").version == whole[1].version
    assert run(films, tmp_path / "other", fps=2.0).version != whole[1].version
