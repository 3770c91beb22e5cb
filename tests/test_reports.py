"""Reports: the pictures show exactly what was hidden, the tables say what was measured, the pages escape."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from mmdiff.reports import heat, mask_gallery, mask_over_time, page, plots, tables
from mmdiff.reports.mask_gallery import MaskedFrame, Row
from mmdiff.reports.plots import Counts

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
    rows = [Row("random", "", [_frame(), _frame()]), Row("difference", "", [_frame(hidden=[(0, 0)])])]
    sheet = mask_gallery.contact_sheet(rows)
    assert sheet.dtype == np.uint8 and sheet.shape[1] <= mask_gallery.SHEET_WIDTH + 2
    for nothing in ([], [Row("random", "", [])]):
        with pytest.raises(ValueError, match="each needs a frame or more"):
            mask_gallery.contact_sheet(nothing)


@pytest.mark.parametrize("rows, columns", [(2, 40), (40, 2), (2, 2)])
@pytest.mark.parametrize("frames", [1, 4])
def test_frames_of_any_shape_make_a_sheet_that_a_page_can_show(rows, columns, frames):
    image = np.full((rows * 16, columns * 16, 3), 90, np.uint8)
    patches, pools = np.ones((rows, columns), bool), np.ones((rows // 2, columns // 2), bool)
    frame = MaskedFrame(image, patches, pools, [(0.1, 0.1, 0.9, 0.9, "3 body*")], "1.0 s", patches * 0.5)
    name = "a name much longer than any strategy or run has " * 9
    for picture in (
        mask_gallery.contact_sheet([Row("frames", "", [frame] * frames), Row(name, name, [frame] * frames)]),
        *mask_over_time.over_time([Row("frames", "", [frame] * frames), Row(name, "", [frame] * frames)]),
    ):
        high, wide = picture.shape[:2]
        assert 700 < wide <= mask_gallery.SHEET_WIDTH + 20 and high < 2600
        # Nothing is cut off: the outermost pixels are paper.
        edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (edge == 255).all()


def test_heat_is_in_equal_factors_and_bare_where_nothing_is_wanted():
    weights = np.array([1.0, 2.0, 4.0, 0.0, 9.0])
    with np.errstate(divide="ignore"):
        found = heat.heat(np.log(weights), np.array([True, True, True, True, False]))
    assert found.value[:3] == pytest.approx([0, 0.5, 1]) and np.isnan(found.value[3:]).all()
    assert found.note == "75% of the patches are wanted; the brightest is wanted 4 times as much as the darkest"
    grey = np.full((16, 32, 3), 128, np.uint8)
    frame = MaskedFrame(np.tile(grey, (2, 1, 1)), np.zeros((2, 2), bool), np.zeros((1, 1), bool), [], "t")
    frame.heat = np.array([[0.0, np.nan], [1.0, np.nan]])
    drawn = mask_gallery.draw_heat(frame, 1.0).astype(int)
    assert np.ptp(drawn[:, 16:], axis=2).max() == 0, "what is not wanted has no colour"
    assert np.ptp(drawn[:16, :16], axis=2).min() > 20 and np.ptp(drawn[16:, :16], axis=2).min() > 20
    assert drawn[:16, :16].mean() < drawn[16:, :16].mean() < drawn[:, 16:].mean()


@pytest.mark.parametrize(
    "score, flat, note",
    [
        ([0.0, 0.0, 0.0], True, "every patch is wanted alike"),
        ([-np.inf, -np.inf, -np.inf], True, "no patch is wanted"),
        ([np.nan, np.inf, -np.inf], True, "no patch is wanted"),
        ([0.0, -np.inf, -np.inf], False, "33% of the patches are wanted, all alike"),
        ([0.0, -50.0, -1.0], False, "over 1,000 times"),
        ([3.4028235e38, 0.0, 1.0], False, "over 1,000 times"),  # what an infinite score becomes
    ],
)
def test_heat_says_what_there_is_to_see(score, flat, note):
    found = heat.heat(np.array(score), np.ones(3, bool))
    assert found.flat is flat and note in found.note
    # What is not wanted has no colour, and nothing else has none.
    assert (np.isnan(found.value) == ~np.isfinite(score)).all()
    assert np.nanmax(np.append(found.value, 0)) <= 1 and np.nanmin(np.append(found.value, 0)) >= 0


def test_over_time_shows_every_frame_and_where_the_budget_goes():
    bare, half = _frame(), _frame(hidden=[(y, x) for y in range(ROWS) for x in range(COLUMNS // 2)])
    rows = [Row("frames", "", [bare] * 10), Row("early", "", [half] * 5 + [bare] * 5)]
    first, second = mask_over_time.over_time(rows)  # ten frames are too many for a line
    assert first.shape == second.shape
    curve = (first == np.array(mask_over_time.LINE)).all(-1)
    heights = [np.flatnonzero(curve[:, x]).mean() for x in range(curve.shape[1]) if curve[:, x].any()]
    other = (second == np.array(mask_over_time.LINE)).all(-1)
    lower = [np.flatnonzero(other[:, x]).mean() for x in range(other.shape[1]) if other[:, x].any()]
    assert heights and lower and max(heights) + 20 < min(lower), (
        "half of each of the first five frames, none of the last"
    )
    with pytest.raises(ValueError, match="each must have as many"):
        mask_over_time.over_time([Row("frames", "", [bare] * 2), Row("random", "", [bare])])


def test_targets_are_dashed_on_white_and_on_black():
    for shade in (0, 255):
        frame = _frame(pooled=[(0, 0)])
        frame.image[:] = shade
        drawn = mask_gallery.draw(frame, 2.0).astype(int)
        assert (np.abs(drawn[:64, :64] - shade) > 150).any(-1).sum() > 60


def test_distributions_show_the_values_and_one_colour_for_a_unit(monkeypatch):
    panels, whole = [], plots._panel
    monkeypatch.setattr(plots, "_panel", lambda *rest: panels.append(whole(*rest)) or panels[-1])
    pooled, patch = np.array([5, 9, 1, 1, 4]), np.array([12, 2, 7])
    plots.distributions([Counts("a", "", pooled, "pooled"), Counts("b", "", patch, "patch")], "targets", (0.0, 20.0))
    plots.distributions([Counts("b", "", patch, "patch")], "targets")
    dots = [[line for line in panel.lines if line.get_marker() != "None"] for panel in panels]
    assert [line.get_xdata().tolist() for line in dots[0]] == [pooled.tolist(), patch.tolist()]
    for place, line in enumerate(dots[0]):
        assert (np.abs(line.get_ydata() - place) < 0.3).all(), "in the row of its name"
    assert [line.get_color() for line in dots[0]] == list(plots.COLOURS[1::-1])
    assert dots[1][0].get_color() == dots[0][1].get_color()
    medians = [line.get_xdata()[0] for line in panels[0].lines if line.get_marker() == "None"]
    boxes = [(box.get_x(), box.get_x() + box.get_width()) for box in panels[0].patches]
    assert medians == [4, 7] and boxes == [(1, 5), (4.5, 9.5)]
    assert [text.get_text() for text in panels[0].texts] == ["4.0 ± 3.3", "7.0 ± 5.0", "mean ± sd"]
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["a", "b"]
    assert panels[0].get_xlim() == (0, 20)


def test_distributions_are_a_picture_of_any_number_of_windows():
    rows = [Counts("one", "", np.array([3]), "patch"), Counts("same", "b", np.full(9, 4), "pooled")]
    assert Image.open(io.BytesIO(plots.distributions(rows, "targets"))).height > 200
    with pytest.raises(ValueError, match="without a value"):
        plots.distributions([Counts("none", "", np.zeros(0, int), "")], "targets")


def test_a_page_embeds_each_kind_of_picture_and_names_its_links(tmp_path):
    sheet = mask_gallery.contact_sheet([Row("random", "", [_frame()])])
    images = [("png", page.encode_png(sheet)), ("webp", page.encode_webp(sheet))]
    section = page.Section("a <b>", "", images, None)
    html = page.write_report(tmp_path, "Masks", [], [section], "index.html", [("run & more", "run_a.html")]).read_text()
    assert "a &lt;b&gt;" in html and '<a href="run_a.html">run &amp; more</a>' in html
    for kind, codec in (("png", 0), ("webp", 6)):
        embedded = base64.b64decode(re.search(rf'image/{kind};base64,([^"]+)"', html)[1])
        difference = np.abs(np.asarray(Image.open(io.BytesIO(embedded))).astype(int) - sheet)
        assert difference.mean() <= codec


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
