"""Reports: the pictures show exactly what was hidden, the tables say what was measured, the pages escape."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from mmdiff.reports import mask_gallery, page, plots, tables
from mmdiff.reports.mask_gallery import MaskedFrame

ROWS, COLUMNS = 4, 6


def _frame(hidden=(), pooled=(), boxes=(), title="0.0 s") -> MaskedFrame:
    image = np.random.default_rng(0).integers(0, 256, (ROWS * 16, COLUMNS * 16, 3), dtype=np.uint8)
    patches, tokens = np.zeros((ROWS, COLUMNS), bool), np.zeros((ROWS // 2, COLUMNS // 2), bool)
    for place in hidden:
        patches[place] = True
    for place in pooled:
        tokens[place] = True
    return MaskedFrame(image, patches, tokens, list(boxes), title)


@pytest.mark.parametrize("scale", [1.0, 1.37, 2.0])
def test_only_the_hidden_patch_is_veiled(scale):
    bare, veiled = mask_gallery.draw(_frame(), scale), mask_gallery.draw(_frame(hidden=[(1, 2)]), scale)
    changed = (bare != veiled).any(-1)
    y0, y1, x0, x1 = (round(n * 16 * scale) for n in (1, 2, 2, 3))
    assert changed[y0:y1, x0:x1].mean() > 0.95
    changed[y0:y1, x0:x1] = False
    assert not changed.any()


def test_a_hidden_patch_cannot_be_taken_for_a_dark_or_bright_one():
    frame = _frame(hidden=[(0, 0)])
    for shade in (0, 128, 255):
        frame.image[:] = shade
        picture = mask_gallery.draw(frame, 1.0).astype(int)
        assert np.abs(picture[:16, :16] - shade).max(-1).mean() > 40


def test_boxes_and_masked_pooled_tokens_change_their_own_places_only():
    bare = mask_gallery.draw(_frame(), 2.0)
    token = (bare != mask_gallery.draw(_frame(pooled=[(0, 1)]), 2.0)).any(-1)
    assert token[:64, 64:128].any()
    token[:64, 64:128] = False
    assert not token.any()
    box = (bare != mask_gallery.draw(_frame(boxes=[(0.5, 0.5, 0.9, 0.9, "")]), 2.0)).any(-1)
    assert box[64:, 96:].any() and not box[:60].any() and not box[:, :90].any()
    assert not box[76:104, 110:160].any(), "a box is an outline"


def test_captions_stay_in_the_picture_and_apart():
    size, boxes, taken = (300, 200), [(0, 0, 299, 199), (100, 5, 290, 60), (101, 6, 288, 61)], []
    for box in boxes:
        taken.append(mask_gallery._free_place(box, 120, 20, boxes, taken, size))
    for x0, y0, x1, y1 in taken:
        assert 0 <= x0 < x1 <= 300 and 0 <= y0 < y1 <= 200
    assert not any(mask_gallery._overlap(a, b) for i, a in enumerate(taken) for b in taken[:i])
    long = _frame(boxes=[(0.0, 0.0, 1.0, 1.0, "a caption much longer than the picture is wide " * 3)])
    assert mask_gallery.draw(long, 1.0).shape == (ROWS * 16, COLUMNS * 16, 3)


def test_a_frame_that_does_not_fit_its_mask_says_so():
    with pytest.raises(ValueError, match="with 2 x 2 patches the image must be"):
        MaskedFrame(np.zeros((32, 48, 3), np.uint8), np.zeros((2, 2), bool), np.zeros((1, 1), bool), [], "t")


def test_contact_sheet_takes_rows_of_unequal_length_and_refuses_unlabelled_ones():
    sheet = mask_gallery.contact_sheet([[_frame(), _frame()], [_frame(hidden=[(0, 0)])]], ["random", "difference"])
    assert sheet.dtype == np.uint8 and sheet.shape[1] <= mask_gallery.SHEET_WIDTH + 2
    with pytest.raises(ValueError, match="each label needs a row"):
        mask_gallery.contact_sheet([[_frame()]], ["random", "difference"])


def test_gallery_holds_its_pictures_and_writes_them_beside(tmp_path):
    sheet = mask_gallery.contact_sheet([[_frame()]], ["random"])
    path = mask_gallery.write_gallery(
        tmp_path / "g", [("a <b>", "frames & masks", sheet)], [{"strategy": "random", "hidden": 6}], "Masks"
    )
    html = path.read_text()
    assert path.name == "index.html" and "a &lt;b&gt;" in html and "frames &amp; masks" in html and "random" in html
    embedded = base64.b64decode(re.search(r'base64,([^"]+)"', html)[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(embedded))), sheet)
    assert (tmp_path / "g" / "sheet_00.png").read_bytes() == embedded


def test_loss_curves_are_a_png_and_skip_what_is_not_there():
    lines = [{"step": n, "split": "train", "loss": 6 / (n + 1)} for n in range(5)]
    lines += [{"step": 4, "split": "validation", "loss": 2.0}, {"step": 5, "split": "train", "loss": float("nan")}]
    one = plots.loss_curves({"random": lines}, ["loss", "masked_loss"])
    two = plots.loss_curves({"random": lines, "difference": lines[::-1]}, ["loss"])
    for png in (one, two):
        assert png.startswith(b"\x89PNG")
        assert Image.open(io.BytesIO(png)).width > 800
    with pytest.raises(ValueError, match="no run holds a finite number for any of accuracy"):
        plots.loss_curves({"random": lines}, ["accuracy"])


def test_curves_are_in_order_of_step_and_split_apart():
    lines = [
        {"step": 10, "split": "train", "loss": 1.0},
        {"step": 5, "split": "train", "loss": 2.0},
        {"step": 7, "split": "validation", "loss": 3.0},
        {"step": 8, "split": "train"},
    ]
    assert plots._curve(lines, "loss", "train") == ([5, 10], [2.0, 1.0])
    assert plots._curve(lines, "loss", "validation") == ([7], [3.0])


def test_probe_table_says_mean_and_sample_deviation_over_seeds():
    rows = tables.probe_table(
        [
            {
                "name": "random",
                "accuracy": {"audio": [0.5, 0.6, 0.7], "text": [0.25]},
                "chance": 0.25,
                "questions": 40,
                "mode": "linear",
            }
        ]
    )
    assert rows[0]["audio (%)"] == "60.0 ± 10.0"  # of 50, 60, 70: the sample deviation is 10, not 8.2
    assert rows[0]["text (%)"] == "25.0"  # one seed has no spread
    assert rows[0]["joint (%)"] == "—"
    assert (rows[0]["chance (%)"], rows[0]["questions"], rows[0]["seeds"]) == ("25.0", "40", "1 / 3")
    header, rule, row = tables.to_markdown(rows).splitlines()
    assert header.startswith("| run    | probe  |   audio (%) |") and set(rule) == set("| -:")
    assert row.startswith("| random | linear | 60.0 ± 10.0 |     25.0 |         — |"), "padded, numbers flush right"
    assert "a\\|b" in tables.to_markdown([{"run": "a|b"}])
    assert tables.to_markdown([]) == ""


def test_report_holds_every_caption_and_note_and_escapes_html(tmp_path):
    png = page.encode_png(np.zeros((4, 4, 3), np.uint8))
    sections = [
        page.Section("What was <run>", "one\n\ntwo & three", [], [{"stage": "<script>", "seconds": 4.25}]),
        page.Section("Masks", "", [("first caption", png), ('"quoted" caption', png)], None),
    ]
    path = page.write_report(tmp_path / "new", "A <title>", ["a tiny model proves the path, not the method"], sections)
    html = path.read_text()
    assert path.name == "report.html"
    assert "a tiny model proves the path, not the method" in html
    assert "<script>" not in html and "&lt;script&gt;" in html and "A &lt;title&gt;" in html
    assert "<p>one</p>" in html and "<p>two &amp; three</p>" in html
    assert "<figcaption>first caption</figcaption>" in html and "&#34;quoted&#34; caption</figcaption>" in html
    assert html.count("data:image/png;base64,") == 2
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html), "nothing is fetched from elsewhere"


def test_columns_of_numbers_are_told_from_columns_of_words():
    table = page.layout(
        [{"stage": "decode", "seconds": 62.13, "found": "8 clips"}, {"stage": "probe", "seconds": 4.2, "found": ""}]
    )
    assert [column["number"] for column in table["columns"]] == [False, True, False]
    assert table["cells"] == [["decode", "62.1", "8 clips"], ["probe", "4.2", ""]]
    assert page.layout([]) is None
