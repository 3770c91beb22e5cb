"""A picture and the boxes in it in, the picture with them drawn out; many such pictures in, one sheet of them out.

A colour is a track, a thick line a body (or an object), a thin one a face. The line is whole where the box was seen (or
drawn by a person), dotted where it was derived from another box, dashed where it was filled between two sightings.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from preprocessing.detect_people import LabelledBox

# Told apart from each other, and seen both on pictures and on white.
COLOURS = (
    "#f0384f", "#2f9be8", "#35b34a", "#f58a1f", "#b45cf0", "#0fb3b8",
    "#ea3fd0", "#93b000", "#e0a800", "#ff7fa5", "#00a37a", "#b0794f",
)  # fmt: skip
DASHES = {"filled": (9, 6), "derived": (3, 5)}  # pixels drawn and left out; of all other sources nothing is left out
THICK, DOTS, THIN, HALO = 4, 3, 2, 1  # pixels; a dark halo sets the line off from what is behind it
DARK, INK, MUTED, PAPER = "#101214", "#181c21", "#5c636c", "#ffffff"
TEXT = 13  # pixels
TILE = 400  # pixels, the longer side of a picture on a sheet
COLUMNS = 4  # of a sheet with pictures that are wider than high; narrow ones have more
MARGIN, GAP = 20, 14  # pixels, of a sheet and between its pictures
SHEET = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GAP  # pixels across

Corners = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels


@dataclasses.dataclass(frozen=True)
class TrackedBox:
    """A box with its edges as shares of the picture, and the number of its track."""

    box: LabelledBox
    track: int

    @property
    def kind(self) -> tuple[int, str, str]:
        """What is one thing from picture to picture."""
        return self.track, self.box.part, self.box.label


@dataclasses.dataclass(frozen=True)
class Tile:
    """A picture of a sheet, and the words below it."""

    picture: UInt8[np.ndarray, "h w 3"]
    boxes: Sequence[TrackedBox]
    caption: str


def colour_of(track: int) -> str:
    """The colour of a track, as #rrggbb."""
    return COLOURS[track % len(COLOURS)]


def draw(picture: UInt8[np.ndarray, "h w 3"], boxes: Sequence[TrackedBox]) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with its boxes, and a tag at the largest box of each track: number, label, score."""
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    largest_first = sorted(boxes, key=lambda one: -_area(one.box))
    for one in largest_first:
        _rectangle(canvas, _corners(one.box, image.size), one)
    faces = [_corners(one.box, image.size) for one in boxes if one.box.part == "face"]
    taken: list[Corners] = []
    for one in {one.track: one for one in reversed(largest_first)}.values():
        taken.append(_tag(canvas, image.size, one, taken, faces))
    return np.asarray(image)


def contact_sheet(title: str, about: str, tiles: Sequence[Tile]) -> UInt8[np.ndarray, "h w 3"]:
    """A heading, what the lines mean, and the pictures in rows, each with its words below it."""
    shown = [draw(fitted(tile.picture, TILE), tile.boxes) for tile in tiles]
    width, height = (max(picture.shape[axis] for picture in shown) for axis in (1, 0))
    columns = max((SHEET - 2 * MARGIN + GAP) // (width + GAP), 1)
    below = TEXT + 12
    top = MARGIN + 92
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (SHEET, top + rows * (height + below + GAP) - GAP + MARGIN), PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((MARGIN, MARGIN), _cut(title, font(22, bold=True), SHEET - 2 * MARGIN), INK, font(22, bold=True))
    canvas.text((MARGIN, MARGIN + 32), about, MUTED, font(TEXT + 1))
    _legend(canvas, MARGIN, MARGIN + 58)
    for place, (tile, picture) in enumerate(zip(tiles, shown, strict=True)):
        x = MARGIN + place % columns * (width + GAP)
        y = top + place // columns * (height + below + GAP)
        sheet.paste(Image.fromarray(picture), (x, y))
        canvas.text((x, y + picture.shape[0] + 5), _cut(tile.caption, font(TEXT), width), MUTED, font(TEXT))
    return np.asarray(sheet)


def stamp(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture with a few words in its lower left corner."""
    image = Image.fromarray(picture)
    canvas, letters = ImageDraw.Draw(image), font(TEXT)
    width, height = int(letters.getlength(text)) + 10, TEXT + 8
    canvas.rectangle((0, image.height - height, width, image.height), DARK)
    canvas.text((5, image.height - height + 3), text, PAPER, letters)
    return np.asarray(image)


def clock(seconds: float) -> str:
    """A time as m:ss.t, from an hour on with the hours."""
    tenths = round(10 * seconds)
    hours, minutes = divmod(tenths // 600, 60)
    return f"{f'{hours}:{minutes:02d}' if hours else minutes}:{tenths // 10 % 60:02d}.{tenths % 10}"


def legend() -> UInt8[np.ndarray, "h w 3"]:
    """What the lines mean, as a picture by itself."""
    image = Image.new("RGB", (SHEET, 32), PAPER)
    right = _legend(ImageDraw.Draw(image), 4, 6)
    return np.asarray(image.crop((0, 0, right, 32)))


def fitted(picture: UInt8[np.ndarray, "h w 3"], longer_side: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture, its longer side as long as that."""
    height, width = picture.shape[:2]
    scale = longer_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """A font that has most letters of most languages; matplotlib carries it, so that it is the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _area(box: LabelledBox) -> float:
    return (box.y1 - box.y0) * (box.x1 - box.x0)


def _corners(box: LabelledBox, size: tuple[int, int]) -> Corners:
    """x0, y0, x1, y1 in pixels, inside the picture with the whole of a line."""
    (width, height), edge = size, THICK // 2 + HALO
    x0, x1 = (min(max(round(x * width), edge), width - 1 - edge) for x in (box.x0, box.x1))
    y0, y1 = (min(max(round(y * height), edge), height - 1 - edge) for y in (box.y0, box.y1))
    return x0, y0, max(x1, x0), max(y1, y0)


def _rectangle(canvas: ImageDraw.ImageDraw, corners: Corners, one: TrackedBox) -> None:
    x0, y0, x1, y1 = corners
    sides = [(x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)]
    lines = [line for side in sides for line in _dashes(*side, DASHES.get(one.box.source))]
    width = THIN if one.box.part == "face" else DOTS if one.box.source == "derived" else THICK
    for colour, thickness in ((DARK, width + 2 * HALO), (colour_of(one.track), width)):
        before, after = (thickness - 1) // 2, thickness // 2
        lengthened = HALO if colour == DARK else 0
        for ax, ay, bx, by in lines:
            (left, right), (top, bottom) = sorted((ax, bx)), sorted((ay, by))
            if ay == by:
                canvas.rectangle((left - lengthened, top - before, right + lengthened, bottom + after), colour)
            else:
                canvas.rectangle((left - before, top - lengthened, right + after, bottom + lengthened), colour)


def _dashes(ax: int, ay: int, bx: int, by: int, pattern: tuple[int, int] | None):
    """The pieces of a line that are drawn; it starts and ends with one."""
    length = max(abs(bx - ax), abs(by - ay))
    if pattern is None or length <= sum(pattern):
        return [(ax, ay, bx, by)]
    drawn, left_out = pattern
    count = max(round((length - drawn) / (drawn + left_out)), 1)
    starts = np.linspace(0, length - drawn, count + 1).round().astype(int)
    dx, dy = np.sign(bx - ax), np.sign(by - ay)
    return [
        (int(ax + dx * s), int(ay + dy * s), int(ax + dx * (s + drawn)), int(ay + dy * (s + drawn))) for s in starts
    ]


def _tag(
    canvas: ImageDraw.ImageDraw, size: tuple[int, int], one: TrackedBox, taken: list[Corners], faces: list[Corners]
) -> Corners:
    """Writes the tag where no other tag is, and no face where that can be: above the box, inside it, below it, lower."""
    letters = font(TEXT, bold=True)
    text = f"{one.track} {one.box.label} {one.box.score:.2f}"
    width, height = int(letters.getlength(text)) + 8, TEXT + 6
    x0, y0, x1, y1 = _corners(one.box, size)
    tops = [y0 - height, y0, y1 - height, y1, *range(y0 + height, size[1], height)]
    lefts = [min(max(x, 0), max(size[0] - width, 0)) for x in (x0 - 1, x1 - width + 2)]
    places = [(x, y, x + width, y + height) for y in tops for x in lefts if 0 <= y <= size[1] - height]
    free = [place for place in places if not any(_overlap(place, tag) for tag in taken)]
    clear = [place for place in free if not any(_overlap(place, face) for face in faces)]
    place = next(iter(clear or free or places), (0, 0, width, height))
    canvas.rectangle((*place[:2], place[2] - 1, place[3] - 1), colour_of(one.track), DARK)
    canvas.text((place[0] + 4, place[1] + 2), text, _on(colour_of(one.track)), letters)
    return place


def _overlap(a: Corners, b: Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _on(colour: str) -> str:
    """Dark or white, whichever is read better on the colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else PAPER


def _cut(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its end as fits."""
    while letters.getlength(text) > width:
        text = "…" + text.lstrip("…")[1:]
    return text


def _legend(canvas: ImageDraw.ImageDraw, x: int, y: int) -> int:
    """Draws what lines mean; returns where it ends."""
    entries = [
        (("body", "detected"), "body or object, seen"),
        (("face", "detected"), "face, seen"),
        (("body", "derived"), "derived from a face"),
        (("body", "filled"), "filled between two sightings"),
    ]
    letters = font(TEXT)
    for (part, source), words in entries:
        box = LabelledBox(0.0, 0.0, 1.0, 1.0, "", part, 1.0, source)
        _rectangle(canvas, (x + 2, y + 1, x + 56, y + 17), TrackedBox(box, 1))
        canvas.text((x + 66, y + 1), words, INK, letters)
        x += 66 + int(letters.getlength(words)) + 28
    for number in range(6):
        canvas.rectangle((x + 12 * number, y + 2, x + 12 * number + 11, y + 16), colour_of(number))
    words = "a colour is a track: number, label, score"
    canvas.text((x + 82, y + 1), words, INK, letters)
    return x + 82 + int(letters.getlength(words)) + 8
