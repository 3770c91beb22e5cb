"""How good each detector is on the real clips: its boxes held against people and faces that were labelled by hand.

    python benchmarks/detectors.py VIDEOS
    python benchmarks/detectors.py VIDEOS --detectors face_body,hog --by-clip --json docs/raw/detectors.json

VIDEOS is the folder of the clips that people_in_real_clips.json names. A detector looks at every sampled picture, since
tracks need them all; it is scored on the labelled ones, three times: as it is, with tracks, and with their gaps filled.
A part (body or face) of which a detector never gives a box has no row.

- recall: the share of labels with a box of their own whose intersection over union is `--iou` or more, as many as can
  be matched one to one; recall .3 the same at 0.3, since a body derived from a face is too long where people sit.
- precision: the share of boxes that are matched so. Boxes that lie by that share on ignored people are left out.
- centre: the share of labels whose centre lies in some box of their part.
- covered: the share of a label's area that lies in boxes of its part, mean over labels; what masking needs.
- spent: the share of the boxes' area that lies on labels, ignored people left out, over all pictures.
- pictures/s: detection alone, per second of processor time on one thread, so that other work on the machine does not
  change it much.
"""

import argparse
import collections
import dataclasses
import json
import platform
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import supervision
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from mmdiff.errors import UserError
from preprocessing.decode_video import SampledFrames
from preprocessing.detect_people import Detector, LabelledBox, build_detector
from preprocessing.options import Options
from preprocessing.shot_cuts import ShotCuts
from preprocessing.suppress import suppress
from preprocessing.track_boxes import clean, follow

LABELS = Path(__file__).with_name("people_in_real_clips.json")
FPS = 3.0  # the grid of the labels
PARTS = {"person": "body", "face": "face"}  # by the labels' categories
LOOSE = 0.3
WAYS = ("as it is", "tracks", "tracks, gaps filled")


@dataclasses.dataclass
class Picture:
    """What people drew on one picture, in pixels of the video as players show it: x0 y0 x1 y1 by part."""

    width: int
    height: int
    labels: dict[str, Float[np.ndarray, "n 4"]]
    ignored: dict[str, Float[np.ndarray, "m 4"]]


@dataclasses.dataclass
class Counts:
    """What was counted on some pictures; the sum of two is that of both."""

    labels: int = 0
    boxes: int = 0  # but those on ignored people
    matched: int = 0
    loosely: int = 0  # at LOOSE
    centred: int = 0
    covered: float = 0.0  # shares of labels, summed
    area: float = 0.0  # of the boxes, in pictures
    useful: float = 0.0  # of that, what lies on labels

    def __add__(self, other: "Counts") -> "Counts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Counts(*(mine + its for mine, its in pairs))

    def shares(self) -> dict[str, float | None]:
        """What the columns show; None where nothing was counted that could have a share."""
        return {
            "recall": _share(self.matched, self.labels),
            "recall .3": _share(self.loosely, self.labels),
            "precision": _share(self.matched, self.boxes),
            "centre": _share(self.centred, self.labels),
            "covered": _share(self.covered, self.labels),
            "spent": _share(self.useful, self.area),
        }


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def read_labels(path: Path) -> dict[str, dict[int, Picture]]:
    """The labelled pictures of each video, by their index on the grid, from COCO json with `video` and `frame_index`."""
    coco = json.loads(path.read_text(encoding="utf-8"))
    part_of = {category["id"]: PARTS[category["name"]] for category in coco["categories"]}
    drawn = collections.defaultdict(list)
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        key = annotation["image_id"], part_of[annotation["category_id"]], bool(annotation["iscrowd"])
        drawn[key].append((x, y, x + width, y + height))
    videos = collections.defaultdict(dict)
    for image in coco["images"]:
        labels, ignored = (
            {part: _corners(drawn[image["id"], part, crowd]) for part in PARTS.values()} for crowd in (False, True)
        )
        videos[image["video"]][image["frame_index"]] = Picture(image["width"], image["height"], labels, ignored)
    return dict(videos)


def _corners(boxes: Iterable) -> Float[np.ndarray, "n 4"]:
    return np.array(list(boxes), float).reshape(-1, 4)


def score(picture: Picture, part: str, boxes: Float[np.ndarray, "k 4"], iou: float) -> Counts:
    """Counts the boxes (x0 y0 x1 y1) of one part on one picture."""
    labels, ignored = picture.labels[part], picture.ignored[part]
    matched = matches(labels, boxes, iou)
    left_out = ~matched & (_on(ignored, boxes) >= iou)
    of_boxes = _filled(picture, boxes)
    of_labels = _filled(picture, labels)
    counted = of_boxes & (of_labels | ~_filled(picture, ignored))
    centres = (labels[:, :2] + labels[:, 2:]) / 2
    inside = (boxes[None, :, :2] <= centres[:, None]) & (centres[:, None] <= boxes[None, :, 2:])
    return Counts(
        labels=len(labels),
        boxes=int((~left_out).sum()),
        matched=int(matched.sum()),
        loosely=int(matches(labels, boxes, LOOSE).sum()),
        centred=int(inside.all(-1).any(-1).sum()),
        covered=float(sum(of_boxes[_slices(label)].mean() for label in labels)),
        area=float(counted.mean()),
        useful=float((counted & of_labels).mean()),
    )


def matches(labels: Float[np.ndarray, "n 4"], boxes: Float[np.ndarray, "k 4"], iou: float) -> Bool[np.ndarray, " k"]:
    """Which boxes have a label of their own: as many as can be, and then with the most overlap."""
    found = np.zeros(len(boxes), bool)
    if len(labels) and len(boxes):
        overlap = supervision.box_iou_batch(labels, boxes)
        enough = overlap >= iou
        # The overlaps together weigh less than one more match.
        rows, columns = linear_sum_assignment(enough * (1 + overlap / (min(overlap.shape) + 1)), maximize=True)
        found[columns[enough[rows, columns]]] = True
    return found


def _on(ignored: Float[np.ndarray, "m 4"], boxes: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, " k"]:
    """The share of each box that lies on the ignored region where most of it lies."""
    as_coco = [np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1) for corners in (ignored, boxes)]
    return supervision.box_iou_batch_with_jaccard(*as_coco, [True] * len(ignored)).max(1, initial=0)


def _filled(picture: Picture, boxes: Float[np.ndarray, "k 4"]) -> Bool[np.ndarray, "h w"]:
    """The pixels that lie in some box."""
    pixels = np.zeros((picture.height, picture.width), bool)
    for box in boxes:
        pixels[_slices(box)] = True
    return pixels


def _slices(box: Float[np.ndarray, " 4"]) -> tuple[slice, slice]:
    x0, y0, x1, y1 = np.maximum(np.round(box), 0).astype(int)
    return slice(y0, y1), slice(x0, x1)


@dataclasses.dataclass
class Seen:
    """What a detector saw in one video."""

    boxes: list[list[LabelledBox]]  # of every sampled picture, in its pixels; also those that are not sure
    cuts: list[int]
    scale: Float[np.ndarray, " 4"]  # from those pixels to those of the video as players show it
    seconds: float  # of processor time


def look(path: Path, detector: Detector, options: Options) -> Seen:
    """All sampled pictures of a video, through the same steps as in preprocessing/process_video.py."""
    frames, begins_shot = SampledFrames(path, FPS), ShotCuts()
    found, cuts, batch, seconds, size = [], [], [], 0.0, None

    def detect() -> float:
        began = time.process_time()
        of_batch = detector.boxes(list(batch))
        taken = time.process_time() - began
        found.extend(suppress(clean(boxes, *size)[0], options.nms) for boxes in of_batch)
        batch.clear()
        return taken

    for index, (_, image) in enumerate(frames):
        size = image.shape[:2]
        if begins_shot(image):
            cuts.append(index)
        batch.append(image)
        if len(batch) == options.batch:
            seconds += detect()
    if batch:
        seconds += detect()
    (width, height), (rows, columns) = frames.shown_size, size
    return Seen(found, cuts, np.array([width / columns, height / rows] * 2), seconds)


def in_ways(seen: Seen, sure: float, options: Options) -> Iterator[tuple[str, list[list[LabelledBox]]]]:
    """The boxes of every picture, in each of WAYS."""
    alone, _ = follow(seen.boxes, seen.cuts, FPS, sure, options.longest_gap, "none")
    filled, _ = follow(seen.boxes, seen.cuts, FPS, sure, options.longest_gap, options.tracker)
    tracked = [[box for box in picture if box.source != "filled"] for picture in filled]
    return zip(WAYS, (alone, tracked, filled), strict=True)


def measure(path: Path, pictures: dict[int, Picture], detector: Detector, options: Options, iou: float) -> dict:
    """The counts of one video by way and part, and what was seen and how long it took."""
    seen = look(path, detector, options)
    counts = {}
    for way, boxes in in_ways(seen, detector.threshold, options):
        for part in PARTS.values():
            counts[way, part] = Counts()
            for index, picture in pictures.items():
                corners = _corners((box.x0, box.y0, box.x1, box.y1) for box in boxes[index] if box.part == part)
                counts[way, part] += score(picture, part, corners * seen.scale, iou)
    parts = {box.part for picture in seen.boxes for box in picture}
    return {"counts": counts, "parts": parts, "pictures": len(seen.boxes), "seconds": seen.seconds}


def rows_of(detector: str, clips: dict[str, dict]) -> list[dict]:
    """A row for each part and way over all clips (clip "all") and for each of them."""
    parts = set.union(*(clip["parts"] for clip in clips.values()))
    rows = []
    for name, members in {"all": list(clips), **{name: [name] for name in clips}}.items():
        speed = sum(clips[member]["pictures"] for member in members) / sum(clips[m]["seconds"] for m in members)
        for part in PARTS.values():
            for way in WAYS if part in parts else ():
                counts = sum((clips[member]["counts"][way, part] for member in members), Counts())
                where = {"detector": detector, "clip": name, "part": part, "boxes are": way}
                rows.append(where | dataclasses.asdict(counts) | counts.shares() | {"pictures/s": speed})
    return rows


def table(rows: list[dict], by_clip: bool) -> str:
    """Markdown."""
    titles = ["detector", *(["clip"] if by_clip else []), "part", "boxes are", "labels", "boxes"]
    titles += [*Counts().shares(), "pictures/s"]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for row in rows:
        if by_clip or row["clip"] == "all":
            lines.append("| " + " | ".join(_cell(row[title]) for title in titles) + " |")
    return "\n".join(lines)


def _cell(value: str | float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def find(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each video. Raises UserError where one is missing."""
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in Options().extensions}
    missing = [name for name in names if name not in files]
    if missing:
        raise UserError(f"{folder} holds no video called {', '.join(missing)}; give the folder of the labelled clips")
    return {name: files[name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--detectors", default="face_body,mtcnn,haar,hog", help="names, with commas between them")
    parser.add_argument("--labels", type=Path, default=LABELS)
    parser.add_argument("--iou", type=float, default=0.5)
    parser.add_argument(
        "--threshold", type=float, help="score from which a box is sure; each detector's own if not given"
    )
    parser.add_argument("--longest-gap", type=float, default=Options.longest_gap, help="seconds")
    parser.add_argument("--by-clip", action="store_true", help="a row for each clip too")
    parser.add_argument("--json", type=Path, help="where to write all rows")
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    labels = read_labels(arguments.labels)
    files = find(arguments.videos, labels)
    rows = []
    for name in arguments.detectors.split(","):
        options = Options(detector=name, threshold=arguments.threshold, longest_gap=arguments.longest_gap)
        detector = build_detector(options)
        clips = {video: measure(files[video], labels[video], detector, options, arguments.iou) for video in labels}
        rows += rows_of(name, clips)
    print(table(rows, arguments.by_clip))
    if arguments.json:
        about = {
            "labels": arguments.labels.name,
            "pictures": {video: len(pictures) for video, pictures in labels.items()},
            "iou": arguments.iou,
            "threshold": arguments.threshold,
            "longest_gap": arguments.longest_gap,
            "tracker": Options.tracker,
            "nms": Options.nms,
            "machine": platform.processor() or platform.machine(),
        }
        lines = ",\n".join("  " + json.dumps(row) for row in rows)
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(f'{{"about": {json.dumps(about)},\n "rows": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
