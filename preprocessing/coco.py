"""The boxes of every clip in, one COCO json out, which programs that show, correct and score boxes open.

To the fields of https://cocodataset.org/#format-data come those of TAO (videos, tracks, `video_id`, `frame_index`,
`track_id`) and of CocoVID (`frame_id`, `instance_id`), and three of our own: `time` of an image in seconds, `score` and
`source` of an annotation.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from mmdiff.whole_files import whole
from preprocessing.boxes_table import ClipBoxes

INFO = {"description": "Boxes of the sampled pictures of videos."}
LISTS = ("images", "annotations", "tracks")  # as long as the dataset, so that they wait in files


def write_coco(path: str | Path, clips: Iterable[ClipBoxes]) -> None:
    """Writes every sampled picture as an image, in the order of the clips; the same clips give the same bytes.

    Image number n of a video is called VIDEO/n.jpg, from 1. Numbers of tracks are counted over all videos. Memory holds
    one clip. The file appears whole or not at all.
    """
    path = Path(path)
    with whole(path) as unfinished, contextlib.ExitStack() as opened:
        lists = {name: _List(opened.enter_context(tempfile.TemporaryFile("w+", dir=path.parent))) for name in LISTS}
        categories, videos = _Categories(), []
        for clip in clips:
            videos.append(
                {"id": len(videos) + 1, "name": clip.video, "width": clip.width, "height": clip.height, "fps": clip.fps}
            )
            _add(clip, len(videos), categories, **lists)
        with unfinished.open("w", encoding="ascii") as file:
            file.write(f'{{"info": {json.dumps(INFO)}, "licenses": []')
            for name, written in lists.items():
                file.write(f',\n"{name}": [')
                written.copy_to(file)
                file.write("]")
            file.write(f',\n"categories": {json.dumps(categories.rows())},\n"videos": {json.dumps(videos)}}}\n')


class _List:
    """A JSON list in a file, without its brackets."""

    def __init__(self, file: IO[str]):
        self._file = file
        self.count = 0

    def add(self, item: dict) -> None:
        self._file.write(f"{',' if self.count else ''}\n{json.dumps(item)}")
        self.count += 1

    def copy_to(self, file: IO[str]) -> None:
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)


class _Categories:
    """The number of each label and part, from 1 in order of first appearance. No two have the same name."""

    def __init__(self):
        self._rows: dict[tuple[str, str], dict] = {}
        self._names: set[str] = set()

    def number(self, label: str, part: str) -> int:
        if (label, part) not in self._rows:
            name = "face" if (label, part) == ("person", "face") else label
            name = f"{label} ({part})" if name in self._names else name
            self._names.add(name)
            kind = "object" if part == "object" else "person"
            self._rows[label, part] = {
                "id": len(self._rows) + 1,
                "name": name,
                "supercategory": kind,
                "label": label,
                "part": part,
            }
        return self._rows[label, part]["id"]

    def rows(self) -> list[dict]:
        return list(self._rows.values())


def _add(clip: ClipBoxes, video: int, categories: _Categories, images: _List, annotations: _List, tracks: _List):
    first = images.count + 1
    for index in range(clip.pictures):
        images.add(
            {
                "id": first + index,
                "file_name": f"{clip.video}/{index + 1:05d}.jpg",
                "width": clip.width,
                "height": clip.height,
                "video_id": video,
                "frame_index": index,
                "frame_id": index,
                "time": index / clip.fps,
            }
        )
    numbers: dict[int, int] = {}  # of the clip's tracks
    columns = (clip.frame.tolist(), clip.track.tolist(), clip.label, clip.part, clip.score.tolist(), clip.box.tolist())
    for frame, track, label, part, score, (x0, y0, x1, y1), source in zip(*columns, clip.source, strict=True):
        category = categories.number(label, part)
        if track not in numbers:
            numbers[track] = tracks.count + 1
            tracks.add({"id": numbers[track], "category_id": category, "video_id": video})
        width, height = x1 - x0, y1 - y0
        annotations.add(
            {
                "id": annotations.count + 1,
                "image_id": first + frame,
                "category_id": category,
                "bbox": [x0, y0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [],
                "score": score,
                "video_id": video,
                "track_id": numbers[track],
                "instance_id": numbers[track],
                "source": source,
            }
        )
