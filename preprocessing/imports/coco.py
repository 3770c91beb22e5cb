"""COCO json in, rows out: ours, that of trackers (TAO's or CocoVID's fields), or plain detections of numbered images.

https://cocodataset.org/#format-data; https://github.com/TAO-Dataset/tao/blob/master/docs/FORMAT.md
"""

import codecs
import math
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import ijson

from mmdiff.data.records import PARTS
from preprocessing.clip import IMAGES_PER_SECOND
from preprocessing.imports.rows import Intake, Place, Row, part_of, source_of
from preprocessing.problems import PreprocessError

CACHE = 1 << 16  # KiB of images that are looked up from memory
LARGEST = 2**63  # number that sqlite keeps
NUMBER = re.compile(r"\d+$")  # that ends the name of an image


def coco_rows(path: Path, rate: float | None, intake: Intake) -> Iterator[tuple[Place, Row]]:
    """Every annotation with its id; those of crowds are passed over, and those that are none go to `intake`.

    An image is of a `video` or a `video_id`, else of the video that its folder is called by. It stands at its `time` in
    seconds, at its `frame_index` or `frame_id` from 0 (frames of the video, unless its entry in `videos` has `fps`), or at
    the number that ends its file name, from 1 and three a second.

    The file is gone through once for each of its lists, and memory does not grow with them.
    Raises PreprocessError where it is no COCO json.
    """
    try:
        things = {number: _thing(category) for number, category in _named(path, "categories")}
        videos = dict(_named(path, "videos"))
        images = _Images(_items(path, "images"), videos, rate, intake)
        if not images.count:
            raise PreprocessError(f"{path} has no images; give a COCO json with images, annotations and categories")
        for annotation in _items(path, "annotations"):
            place = Place(path.name, f"annotation {annotation.get('id')!r}")
            if annotation.get("iscrowd"):
                continue
            try:
                yield place, _row(annotation, images, things)
            except _NoBox as error:
                intake.refuse(place, *error.args)
    except ijson.JSONError as error:
        raise PreprocessError(f"{path} cannot be read as JSON ({str(error).splitlines()[0]}); write it again") from None


class _NoBox(Exception):
    """A reason, and an example."""


def _items(path: Path, name: str) -> Iterator[dict]:
    with open_json(path) as file:
        yield from (item for item in ijson.items(file, f"{name}.item", use_float=True) if isinstance(item, dict))


def _named(path: Path, name: str) -> Iterator[tuple[int | str, dict]]:
    """The items of a list that have an id and a name."""
    found = _items(path, name)
    return ((item["id"], item) for item in found if _is_id(item.get("id")) and isinstance(item.get("name"), str))


def open_json(path: Path) -> BinaryIO:
    """The file, behind the mark that some programs write before it."""
    file = path.open("rb")
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    return file


def _thing(category: dict) -> tuple[str, str]:
    """Label and part: as our export says them, else by the name."""
    label, part = category.get("label"), category.get("part")
    return (label, part) if isinstance(label, str) and part in PARTS else part_of(category["name"])


def _row(annotation: dict, images: "_Images", things: dict) -> Row:
    image = images.of(annotation.get("image_id"))
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _NoBox("its bbox is not x, y, width, height", repr(annotation.get("bbox"))[:60]) from None
    try:
        label, part = things[annotation["category_id"]]
    except (KeyError, TypeError):
        raise _NoBox("its category is not in the file", repr(annotation.get("category_id"))) from None
    score, track = _said(annotation, "score"), _said(annotation, "track_id", "instance_id")
    video, seconds, number, rate, *size = image
    source = source_of(annotation.get("source"))
    return Row(video, seconds, number, rate, x, y, x + width, y + height, *size, label, part, score, source, track)


class _Images:
    """Where every image belongs, by its id, in a temporary file that is gone with this object."""

    def __init__(self, images: Iterator[dict], videos: dict, rate: float | None, intake: Intake):
        self._database = sqlite3.connect("", isolation_level=None)  # "": a private file, deleted when closed
        self._database.execute(f"pragma cache_size = -{CACHE}")
        self._database.execute(
            "create table images (id primary key, video integer, seconds real, number real, rate real, width real,"
            " height real) without rowid"
        )
        self._database.execute("begin")
        self.count = 0
        self._names: list[str] = []  # of videos
        self._last: tuple = (None, None)  # Annotations of one image mostly stand together.
        codes: dict[str, int] = {}
        for image in images:
            self.count += 1
            intake.complete = intake.complete or "time" in image  # one that we wrote
            video = _video(image, videos)
            if not video or not _is_id(image.get("id")):
                continue
            code = codes.setdefault(video, len(codes))
            place = (code, *_moment(image, videos, rate), *_size(image))
            try:
                self._database.execute("insert into images values (?, ?, ?, ?, ?, ?, ?)", (image["id"], *place))
            except sqlite3.IntegrityError:
                self._database.execute("update images set video = null where id = ?", (image["id"],))
        self._names = list(codes)
        intake.videos.update(codes)

    def of(self, id) -> tuple:
        """Video, seconds, number, rate, width, height. Raises _NoBox where there is no such image."""
        if not _is_id(id):
            raise _NoBox("its image_id is none", repr(id)[:60])
        if self._last[0] != id:
            row = self._database.execute(
                "select video, seconds, number, rate, width, height from images where id = ?", (id,)
            ).fetchone()
            self._last = (id, row)
        row = self._last[1]
        if row is None:
            raise _NoBox("its image is not in the file, or names no video", f"image_id {id!r}")
        if row[0] is None:
            raise _NoBox("two images have its image_id", repr(id))
        return self._names[row[0]], *row[1:]


def _video(image: dict, videos: dict) -> str | None:
    if isinstance(image.get("video"), str):
        return image["video"]
    if _has_video(image, videos):
        return videos[image["video_id"]]["name"]
    folder = _file_name(image).parent.as_posix()
    return None if folder == "." else folder


def _has_video(image: dict, videos: dict) -> bool:
    return _is_id(image.get("video_id")) and image["video_id"] in videos


def _file_name(image: dict) -> PurePosixPath:
    name = image.get("file_name")
    return PurePosixPath(name.replace("\\", "/") if isinstance(name, str) else "")


def _moment(image: dict, videos: dict, rate: float | None) -> tuple[float | None, float | None, float | None]:
    """Seconds, or the number of a frame and how many there are in a second."""
    seconds, index = _number(image.get("time")), _number(image.get("frame_index", image.get("frame_id")))
    if seconds is not None:
        return seconds, None, None
    fps = _number(videos[image["video_id"]].get("fps")) if _has_video(image, videos) else None
    rate = rate or (fps if fps and 0 < fps < math.inf else None)
    if index is not None:
        return None, index, rate
    number = NUMBER.search(_file_name(image).stem)
    return None, float(number[0]) - 1 if number else None, rate or float(IMAGES_PER_SECOND)


def _size(image: dict) -> tuple[float | None, float | None]:
    width, height = _number(image.get("width")), _number(image.get("height"))
    return (None, None) if width is None or height is None else (width, height)


def _said(annotation: dict, *names: str) -> float | None:
    """The number that is under one of the names; None where none is. Raises _NoBox where it is no number."""
    value = next((annotation[name] for name in names if annotation.get(name) is not None), None)
    if value is not None and _number(value) is None:
        raise _NoBox(f"its {names[0]} is no number", repr(value)[:60])
    return _number(value)


def _number(value) -> float | None:
    """A float; None for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < LARGEST else math.inf


def _is_id(value) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < LARGEST)
