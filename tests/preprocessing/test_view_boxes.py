import dataclasses
import io
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import HEIGHT, WIDTH, make_clip, nobody, walking_square
from PIL import Image

from preprocessing.boxes_table import ClipBoxes, write_boxes
from preprocessing.detect_people import LabelledBox
from preprocessing.draw_boxes import COLOURS, TILE, Tile, TrackedBox, clock, colour_of, contact_sheet, draw, stamp
from preprocessing.film_boxes import boxes_at, rate_of, small, write_film
from preprocessing.problems import PreprocessError
from preprocessing.track_boxes import fill
from preprocessing.view_boxes import chosen, view_boxes

FPS = 3.0


def square(picture):
    """The box of the walking square in a sampled picture."""
    left = 10 + int(picture * 10 / FPS + 1e-6) % (WIDTH - 34)
    return LabelledBox(30.0, float(left), 54.0, float(left + 24), "person", "body", 0.9)


def share(x0, y0, x1, y1, track=0, part="body", source="detected", label="person", score=0.9):
    return TrackedBox(LabelledBox(y0, x0, y1, x1, label, part, score, source), track)


def write_run(folder: Path, data: Path, clips: list[ClipBoxes], sources) -> Path:
    folder.mkdir()
    write_boxes(folder / "boxes.parquet", clips)
    options = {"dataset": "video_folder", "protocol": "", "fps": FPS, "detector": "face_body", "batch": 16}
    manifest = {"videos": str(data), "options": options, "sources": dict.fromkeys(sources, "")}
    (folder / "preprocess.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run over two clips with boxes, one without, and one that cannot be read."""
    data = tmp_path_factory.mktemp("videos")
    make_clip(data / "below" / "-walks é.mp4", walking_square(3))
    make_clip(data / "short.mp4", walking_square(1))
    make_clip(data / "nobody.mp4", nobody(1))
    (data / "broken.mp4").write_text("not a video")
    seen = [[square(i)] if i not in (4, 5) else [] for i in range(9)]
    boxes, tracks = fill(seen, [[0] * len(picture) for picture in seen], (), 3.0)
    clips = [
        ClipBoxes.of("below/-walks é.mp4", FPS, WIDTH, HEIGHT, boxes, tracks),
        ClipBoxes.of("short.mp4", FPS, WIDTH, HEIGHT, [[square(0)], [], []], [[0], [], []]),
    ]
    names = [*(clip.video for clip in clips), "nobody.mp4", "broken.mp4"]
    return write_run(tmp_path_factory.mktemp("runs") / "records", data, clips, names)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    return view_boxes(run, tmp_path_factory.mktemp("page"), clips=1)


def film(path: Path) -> tuple[list[np.ndarray], float]:
    """The pictures of a film, and how long it lasts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return pictures, float(stream.duration * stream.time_base)


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])


def on_line(pixels: np.ndarray, track: int = 0) -> np.ndarray:
    """Which pixels have the colour of the track."""
    return (pixels == rgb(colour_of(track))).all(-1)


def test_the_page_shows_those_with_most_boxes_and_one_with_fewest_that_can_be_read(page):
    html = page.read_text(encoding="utf-8")
    assert page.name == "index.html" and html.count("<section") == 2
    assert html.index("below/-walks é.mp4") < html.index("nobody.mp4") and "short.mp4" not in html
    assert "boxes in 9, in 2 of them only filled ones" in html and "boxes in 0" in html


def test_everything_that_the_page_refers_to_is_there(page):
    import re
    from urllib.parse import unquote

    referred = {unquote(name.split("#")[0]) for name in re.findall(r'(?:src|href)="([^"#][^"]*)"', page.read_text())}
    assert len(referred) == 7 and all((page.parent / name).is_file() for name in referred)
    assert {path.name for path in page.parent.iterdir()} == referred | {"index.html"}
    assert not any(name.startswith("-") or "/" in name for name in referred)


def test_the_film_lasts_as_long_and_its_boxes_go_with_the_square(page):
    pictures, seconds = film(page.parent / "below_-walks_é.mp4.boxes.mp4")
    assert abs(seconds - 3.0) < 0.05 and len(pictures) == 30
    scale = pictures[0].shape[1] / WIDTH
    for index, picture in enumerate(pictures[:27]):  # behind the last sampled picture nothing moves
        row = picture[int(42 * scale)].astype(int)
        line = np.flatnonzero(np.abs(row - rgb(colour_of(0))).sum(-1) < 150)
        expected = 10 + index  # its left edge
        assert line.size and abs(line.min() / scale - expected) < 2.5, index


def test_videos_are_found_by_path_or_name_and_shown_as_asked(run, tmp_path):
    html = view_boxes(run, tmp_path, ["-walks é", "nobody.mp4", "below/-walks é.mp4"]).read_text(encoding="utf-8")
    assert html.count("<section") == 2 and html.index("walks") < html.index("nobody")


def test_the_same_run_gives_the_same_files(run, page, tmp_path):
    again = view_boxes(run, tmp_path, clips=1)
    for path in page.parent.iterdir():
        assert path.read_bytes() == (again.parent / path.name).read_bytes(), path.name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wlks", r"no video 'wlks' among the 4 of .*; near it: below/-walks é.mp4"),
        ("broken", r"broken.mp4 cannot be shown: it is not a readable video"),
    ],
)
def test_a_video_that_cannot_be_shown_is_named(run, tmp_path, name, said):
    with pytest.raises(PreprocessError, match=said):
        view_boxes(run, tmp_path, [name])


def test_what_is_missing_of_a_run_is_said_in_a_sentence(run, tmp_path):
    with pytest.raises(PreprocessError, match=r"holds no boxes.parquet; make it with `mmdiff preprocess .*--stage det"):
        view_boxes(tmp_path, tmp_path / "out")
    copy = shutil.copytree(run, tmp_path / "copy")
    manifest = json.loads((copy / "preprocess.json").read_text())
    for videos, said in (
        (str(tmp_path / "gone"), "is gone; move the videos back"),
        (3, "does not say where the videos"),
    ):
        (copy / "preprocess.json").write_text(json.dumps(manifest | {"videos": videos}))
        with pytest.raises(PreprocessError, match=said):
            view_boxes(copy, tmp_path / "out")
    moved = shutil.copytree(manifest["videos"], tmp_path / "moved")
    (moved / "below" / "-walks é.mp4").unlink()
    (copy / "preprocess.json").write_text(json.dumps(manifest | {"videos": str(moved)}))
    with pytest.raises(PreprocessError, match=r"-walks é.mp4 is no longer in .*moved; move it back"):
        view_boxes(copy, tmp_path / "out")
    (copy / "boxes.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(PreprocessError, match="is not a Parquet table"):
        view_boxes(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_edited_table_is_read_and_a_row_that_is_no_box_is_told_of(run, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    copy = shutil.copytree(run, tmp_path / "copy")
    rows = pq.read_table(run / "boxes.parquet").to_pylist()
    edited = [{"note": "", **dict(reversed(row.items()))} for row in rows if row["video"] == "short.mp4"]
    pq.write_table(pa.Table.from_pylist(edited), copy / "boxes.parquet")
    assert "boxes in 1" in view_boxes(copy, tmp_path / "out", ["short"]).read_text(encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([edited[0] | {"x0": float("nan")}]), copy / "boxes.parquet")
    with pytest.raises(PreprocessError, match="has a row of short.mp4 that is no box"):
        view_boxes(copy, tmp_path / "out", ["short"])
    pq.write_table(pa.Table.from_pylist(edited).drop_columns(["track", "x0"]), copy / "boxes.parquet")
    with pytest.raises(PreprocessError, match="has no column track, x0"):
        view_boxes(copy, tmp_path / "out", ["short"])


def test_a_folder_that_cannot_be_written_is_told_of(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PreprocessError, match="cannot be written to .*file"):
        view_boxes(run, tmp_path / "file", ["nobody"])


def test_lines_are_whole_dotted_or_dashed_by_where_the_box_comes_from():
    picture = np.full((200, 300, 3), 90, np.uint8)
    gaps = {}
    for source in ("detected", "annotated", "imported", "derived", "filled"):
        drawn = draw(picture, [share(0.1, 0.1, 0.9, 0.9, source=source)])
        line = on_line(drawn[180, 30:271])
        gaps[source] = int((np.diff(line.astype(int)) == -1).sum())
        assert line[0] and line[-1] or source != "detected"
    assert gaps["detected"] == gaps["annotated"] == gaps["imported"] == 0
    assert gaps["derived"] > 1.5 * gaps["filled"] > 15


def test_a_body_has_a_thicker_line_than_a_face_and_each_track_its_colour():
    picture = np.full((200, 300, 3), 90, np.uint8)
    drawn = draw(picture, [share(0.1, 0.1, 0.5, 0.9, 1), share(0.6, 0.2, 0.8, 0.7, 2, part="face")])
    middle = drawn[100]
    assert on_line(middle, 1).sum() > on_line(middle, 2).sum() > 0 and not on_line(middle, 0).any()
    assert len(set(COLOURS)) == len(COLOURS) and colour_of(3) == colour_of(3 + len(COLOURS))


def test_a_track_has_one_tag_and_tags_do_not_hide_each_other():
    picture = np.full((300, 400, 3), 90, np.uint8)
    face = share(0.45, 0.35, 0.55, 0.5, 0, part="face")
    alone, both = draw(picture, [face]), draw(picture, [face, share(0.3, 0.2, 0.7, 0.95, 0)])
    above_face = np.s_[90:103, 184:260]
    assert not np.array_equal(alone[above_face], picture[above_face])
    assert np.array_equal(both[above_face], picture[above_face])
    crowd = draw(picture, [share(0.3, 0.3, 0.7, 0.9, track) for track in range(6)])
    for track in range(6):
        assert on_line(crowd, track).sum() > 400  # its tag: their lines lie on top of each other


def test_boxes_at_and_beyond_the_edge_are_drawn_inside():
    for size in ((200, 300), (9, 7), (1, 1)):
        picture = np.zeros((*size, 3), np.uint8)
        assert draw(picture, [share(-0.5, 0.0, 1.5, 1.0, label="ein sehr langer Name")]).shape == picture.shape


def test_a_sheet_is_as_wide_for_any_shape_and_holds_every_picture():
    for height, width in ((90, 160), (160, 90), (450, 800)):
        picture = np.full((height, width, 3), 200, np.uint8)
        picture[:, :, 2] = 17
        sheet = contact_sheet("name " * 60, "about", [Tile(picture, [], "0:00.0")] * 7)
        scale = TILE / max(height, width)
        shown = int((sheet == [200, 200, 17]).all(-1).sum())
        assert shown == 7 * round(height * scale) * round(width * scale)
        assert sheet.shape[1] == 1682


def test_the_time_is_stamped_below():
    picture = np.full((90, 160, 3), 200, np.uint8)
    stamped = stamp(picture, clock(3.0))
    assert np.array_equal(stamped[:60], picture[:60]) and not np.array_equal(stamped, picture)
    assert [clock(s) for s in (0.0, 59.96, 61.25, 3600.0, 7325.04)] == [
        "0:00.0",
        "1:00.0",
        "1:01.2",
        "1:00:00.0",
        "2:02:05.0",
    ]


def test_a_sheet_shows_the_clip_evenly_and_pictures_with_boxes():
    assert chosen(5, [], 24) == [0, 1, 2, 3, 4] and chosen(0, [], 24) == []
    assert chosen(100, [], 4) == [12, 37, 62, 87]
    assert chosen(100, [0, 24, 30, 99], 4) == [0, 30, 62, 99]
    for count in (1, 7, 24, 25, 1000):
        found = chosen(count, range(0, count, 3), 24)
        assert len(found) == min(count, 24) and found == sorted(set(found)) and all(0 <= i < count for i in found)


def test_between_sampled_pictures_boxes_move_and_others_wait_for_their_half():
    grey = np.full((90, 160, 3), 60, np.uint8)
    boxes = {
        0: [share(0.0, 0.1, 0.2, 0.5), share(0.5, 0.5, 0.6, 0.6, 1)],
        1: [share(0.4, 0.1, 0.6, 0.5, source="filled")],
    }
    early, late = (boxes_at(moment, boxes, {}, grey) for moment in (0.25, 0.75))
    assert [one.track for one in early] == [0, 1] and [one.track for one in late] == [0]
    assert [(round(one.box.x0, 6), one.box.source) for one in (early[0], late[0])] == [
        (0.1, "detected"),
        (0.3, "filled"),
    ]
    assert boxes_at(1.0, boxes, {}, grey) == boxes[1] and boxes_at(5.0, boxes, {}, grey) == []


def test_at_a_cut_the_boxes_are_those_of_the_shot_that_is_shown():
    random = np.random.default_rng(0)
    old, new = (random.integers(0, 255, (9, 16, 3), np.uint8).repeat(10, 0).repeat(10, 1) for _ in range(2))
    boxes = {0: [share(0.0, 0.1, 0.2, 0.5)], 1: [share(0.4, 0.1, 0.6, 0.5)]}
    cuts = {1: (small(old), small(new))}
    for moment in (0.1, 0.5, 0.9):
        assert boxes_at(moment, boxes, cuts, old) == boxes[0] and boxes_at(moment, boxes, cuts, new) == boxes[1]


def test_the_rate_of_a_film_is_the_videos_own_where_that_is_not_too_many():
    assert rate_of(10.0, 25.0, 3.0) == 25.0 and rate_of(10.0, 120.0, 3.0) == 30.0 and rate_of(10.0, 1.0, 3.0) == 3.0
    assert rate_of(1000.0, 30.0, 3.0) == 6.0 and rate_of(36_000.0, 30.0, 3.0) == 3.0


def test_a_folder_of_images_of_an_odd_size_becomes_a_film(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(1, 7):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), np.full((91, 161, 3), 40 * number, np.uint8))
    write_film(tmp_path / "film.mp4", folder, {0: [share(0.2, 0.2, 0.5, 0.9)]}, 3.0, {}, 3.0)
    pictures, seconds = film(tmp_path / "film.mp4")
    assert len(pictures) == 6 and seconds == 2.0 and pictures[0].shape == (362, 640, 3)
    assert on_line_roughly(pictures[0]) > 100 > on_line_roughly(pictures[4])


def on_line_roughly(picture: np.ndarray) -> int:
    return int((np.abs(picture.astype(int) - rgb(colour_of(0))).sum(-1) < 120).sum())


def test_the_timeline_has_a_row_for_each_track_and_tells_of_those_left_out(run):
    from preprocessing.view_boxes import ROWS, ShownClip, _timeline

    def height(tracks: int) -> int:
        boxes = {i: [share(0.1, 0.1, 0.5, 0.5, i, source="filled" if i % 2 else "detected")] for i in range(tracks)}
        clip = ShownClip("a", Path("a"), boxes, FPS, max(tracks, 1), max(tracks, 1) / FPS, 25.0)
        return Image.open(io.BytesIO(_timeline(clip))).height

    assert height(0) == height(1) < height(5) < height(ROWS) == height(ROWS + 30)


def test_frames_of_a_track_are_filled_only_where_none_of_its_boxes_was_seen():
    from preprocessing.view_boxes import ShownClip, _runs

    face, body = share(0.1, 0.1, 0.2, 0.2, part="face"), share(0.0, 0.0, 0.5, 0.9)
    filled = dataclasses.replace(face, box=dataclasses.replace(face.box, source="filled"))
    clip = ShownClip("a", Path("a"), {0: [face, body], 1: [filled, body], 2: [filled], 3: [filled], 7: [body]})
    assert _runs(clip.tracks[0]) == [(False, 0, 2), (True, 2, 2), (False, 7, 1)] and clip.only_filled == 2
