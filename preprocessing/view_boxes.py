"""The boxes of a run and its videos in, a page of pictures and films with these boxes drawn out: `mmdiff view boxes`."""

import collections
import dataclasses
import difflib
import io
import json
import math
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import jinja2
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mmdiff.reports import page
from mmdiff.whole_files import write_whole
from preprocessing.datasets import open_dataset
from preprocessing.detect_people import LabelledBox
from preprocessing.draw_boxes import INK, MUTED, Tile, TrackedBox, clock, colour_of, contact_sheet, legend
from preprocessing.film_boxes import Small, rate_of, sampled, small, write_film
from preprocessing.options import MANIFEST, VIDEO_EXTENSIONS, Options
from preprocessing.problems import PreprocessError, VideoError
from preprocessing.shot_cuts import ShotCuts
from preprocessing.staged import BOXES

INDEX, LEGEND = "index.html", "legend.png"
COLUMNS = ("frame", "track", "label", "part", "score", "x0", "y0", "x1", "y1", "width", "height", "source")
TILES = 24  # pictures of a contact sheet
ROWS = 40  # tracks of a timeline
NEAR_NAMES, NEAR = 3, 0.4  # names told of beside one that is unknown, and difflib's ratio from which they are
FILES = {"sheet": "png", "tracks": "png", "boxes": "mp4"}  # of each clip: NAME.sheet.png ...


@dataclasses.dataclass
class ShownClip:
    """What is known of one clip before anything is drawn."""

    video: str
    path: Path
    boxes: dict[int, list[TrackedBox]]  # by sampled picture, those that have some
    fps: float = 0.0  # sampled pictures a second
    pictures: int = 0
    seconds: float = 0.0
    native_fps: float = 0.0
    cuts: dict[int, tuple[Small, Small]] = dataclasses.field(default_factory=dict)  # what is on either side of each

    @property
    def tracks(self) -> dict[int, list[tuple[int, bool]]]:
        """Of each track the pictures that have it, each with whether all of its boxes there were filled."""
        found: dict[int, dict[int, bool]] = collections.defaultdict(dict)
        for index, boxes in sorted(self.boxes.items()):
            for one in boxes:
                found[one.track][index] = found[one.track].get(index, True) and one.box.source == "filled"
        return {track: list(found[track].items()) for track in sorted(found)}

    @property
    def only_filled(self) -> int:
        """How many pictures have boxes, and none that was seen."""
        return sum(all(one.box.source == "filled" for one in boxes) for boxes in self.boxes.values())


def view_boxes(records: Path, out: Path, videos: Sequence[str] = (), clips: int = 4) -> Path:
    """Writes, for some clips, a contact sheet, a film and a timeline of their boxes, and a page that shows all of them.

    Args:
      records: the folder of `mmdiff preprocess`, finished or after `--stage detect`.
      out: the folder for the page, which is returned.
      videos: names of clips as the table has them, or as their files are called; without any, `clips` decides.
      clips: this many of those with most boxes are shown, and beside them one of those with fewest.

    Raises PreprocessError, one sentence, where there is no table of boxes, a name is unknown, or a video has moved.
    """
    records, out = Path(records), Path(out)
    run = _Run(records)
    shown = [run.clip(name) for name in dict.fromkeys(map(run.find, videos))] if videos else run.most_and_fewest(clips)
    files = _names_of_files([clip.video for clip in shown])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for clip, name in zip(shown, files, strict=True):
            write_whole(out / f"{name}.sheet.png", page.encode_png(_sheet(clip)))
            write_whole(out / f"{name}.tracks.png", _timeline(clip))
            rate = rate_of(clip.seconds, clip.native_fps, clip.fps)
            write_film(out / f"{name}.boxes.mp4", clip.path, clip.boxes, clip.fps, clip.cuts, rate)
        write_whole(out / LEGEND, page.encode_png(legend()))
        return _page(out / INDEX, records, shown, files)
    except OSError as error:
        raise PreprocessError(f"the page cannot be written to {out} ({error}); give another folder") from None


class _Run:
    """What `mmdiff preprocess` left in a folder, and the videos that it was given."""

    def __init__(self, records: Path):
        self.table = records / BOXES
        if not self.table.is_file():
            raise PreprocessError(
                f"{records} holds no {BOXES}; make it with `mmdiff preprocess VIDEOS {records} --stage detect`"
            )
        manifest = _manifest(records / MANIFEST)
        self.data, chosen = Path(manifest["videos"]), manifest["options"]
        if not self.data.is_dir():
            raise PreprocessError(f"{self.data}, which {records} was made of, is gone; move the videos back there")
        kept = {name: chosen[name] for name in ("dataset", "protocol", "fps") if name in chosen}
        options = Options(**kept, extensions=tuple(chosen.get("extensions", VIDEO_EXTENSIONS)))
        self.fps = options.fps
        self._dataset = open_dataset(self.data, options, records)
        self.counts = _counts(self.table)
        self.videos = sorted({*manifest.get("sources", ()), *self.counts})

    def find(self, name: str) -> str:
        """The clip of that name, or the only one whose file is called so."""
        if name in self.videos:
            return name
        alike = [video for video in self.videos if name in (PurePosixPath(video).name, PurePosixPath(video).stem)]
        if len(alike) == 1:
            return alike[0]
        if alike:
            raise PreprocessError(f"{name!r} may be {' or '.join(alike)}: give the name as the table of boxes has it")
        near = difflib.get_close_matches(name, self.videos, NEAR_NAMES, NEAR) or self.videos[:NEAR_NAMES]
        raise PreprocessError(
            f"there is no video {name!r} among the {len(self.videos)} of {self.table.parent}; near it: {', '.join(near)}"
        )

    def most_and_fewest(self, clips: int) -> list[ShownClip]:
        """The clips with most boxes, and of the others the one with fewest that can be looked at."""
        by_count = sorted(self.videos, key=lambda name: (-self.counts.get(name, 0), name))
        shown = [self.clip(name) for name in by_count[:clips] if self.counts.get(name)]
        for name in sorted(by_count[len(shown) :], key=lambda name: (self.counts.get(name, 0), name)):
            try:
                return [*shown, self.clip(name)]
            except PreprocessError:
                if self.counts.get(name):
                    raise
                # Nothing was found in it, perhaps because it could not be read then either.
        if not shown:
            raise PreprocessError(f"{self.table} holds no box, and no video that it is about can be read")
        return shown

    def clip(self, video: str) -> ShownClip:
        """A clip, after one pass over the pictures that were looked at for boxes."""
        path = self._dataset.media(video).pictures
        if path is None or not path.exists():
            raise PreprocessError(
                f"{video} is no longer in {self.data}; move it back, or name other videos with --video"
            )
        shown = ShownClip(video, path, _boxes_of(video, self.table))
        frames, begins_shot, last = sampled(path, self.fps), ShotCuts(), None
        try:
            for index, (_, picture) in enumerate(frames):
                if begins_shot(picture):
                    shown.cuts[index] = (small(last), small(picture))
                last, shown.pictures = picture, index + 1
        except VideoError as error:
            problem = error.problem
            raise PreprocessError(f"{video} cannot be shown: it {problem.problem}; {problem.advice}") from None
        shown.fps, shown.native_fps, shown.seconds = frames.fps, frames.native_fps, frames.seconds
        return shown


def _manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        Path(manifest["videos"]), dict(manifest["options"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PreprocessError(
            f"{path} does not say where the videos are ({error}); give the folder that `mmdiff preprocess` wrote"
        ) from None
    return manifest


def _counts(table: Path) -> dict[str, int]:
    """Boxes of each video, read piece by piece."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts = collections.Counter()
    try:
        with pq.ParquetFile(table) as file:
            missing = {"video", *COLUMNS} - set(file.schema_arrow.names)
            if missing:
                raise PreprocessError(
                    f"{table} has no column {', '.join(sorted(missing))}: it is another table, or has lost some"
                )
            for batch in file.iter_batches(columns=["video"]):
                for entry in batch.column(0).value_counts().to_pylist():
                    counts[entry["values"]] += entry["counts"]
    except (pa.ArrowException, OSError) as error:
        raise PreprocessError(f"{table} is not a Parquet table ({error}); make it again") from None
    return dict(counts)


def _boxes_of(video: str, table: Path) -> dict[int, list[TrackedBox]]:
    """The boxes of one clip, by sampled picture, with edges as shares. Only row groups that may hold it are read."""
    import pyarrow.parquet as pq

    boxes: dict[int, list[TrackedBox]] = {}
    for row in pq.read_table(table, columns=list(COLUMNS), filters=[("video", "==", video)]).to_pylist():
        try:
            x0, x1 = (float(row[x]) / row["width"] for x in ("x0", "x1"))
            y0, y1 = (float(row[y]) / row["height"] for y in ("y0", "y1"))
            box = LabelledBox(y0, x0, y1, x1, str(row["label"]), str(row["part"]), float(row["score"]), row["source"])
            frame, track = int(row["frame"]), int(row["track"])
            if not all(map(math.isfinite, (y0, x0, y1, x1, box.score))):
                raise ValueError
        except (TypeError, ValueError, ZeroDivisionError):
            raise PreprocessError(f"{table} has a row of {video} that is no box: {row}; correct or remove it") from None
        boxes.setdefault(frame, []).append(TrackedBox(box, track))
    return boxes


def chosen(pictures: int, with_boxes: Sequence[int], count: int) -> list[int]:
    """Sampled pictures for a sheet: evenly over the clip, and of those around each place one with boxes if there is one."""
    count = min(count, pictures)
    found = []
    for place in range(count):
        first, end = place * pictures // count, (place + 1) * pictures // count
        middle = (first + end - 1) / 2
        here = [index for index in with_boxes if first <= index < end] or range(first, end)
        found.append(min(here, key=lambda index: (abs(index - middle), index)))
    return found


def _sheet(clip: ShownClip):
    wanted = set(chosen(clip.pictures, sorted(clip.boxes), TILES))
    tiles, before = [], 0
    for index, (time, picture) in enumerate(sampled(clip.path, clip.fps)):
        if index in wanted:
            new_shot = any(before < cut <= index for cut in clip.cuts)
            caption = f"{clock(time)}   picture {index}" + "   new shot" * new_shot
            tiles.append(Tile(picture, clip.boxes.get(index, []), caption))
            before = index
    return contact_sheet(clip.video, _about(clip), tiles)


def _about(clip: ShownClip) -> str:
    """What a clip holds, in a line."""
    tracks = clip.tracks
    said = [
        f"{clock(clip.seconds)} long",
        f"{clip.pictures} pictures looked at ({clip.fps:g} a second)",
        f"boxes in {len(clip.boxes)}",
        f"{_several(len(tracks), 'track')}",
        f"{_several(len(clip.cuts), 'cut')}",
    ]
    if clip.only_filled:
        said[2] += f", in {clip.only_filled} of them only filled ones"
    return " · ".join(said)


def _several(count: int, what: str) -> str:
    return f"{count} {what}" + "s" * (count != 1)


def _timeline(clip: ShownClip) -> bytes:
    """One row for each track: when it was seen, and when it was filled; lines are cuts. PNG."""
    tracks = clip.tracks
    longest = sorted(tracks, key=lambda track: (-len(tracks[track]), track))[:ROWS]
    rows = sorted(longest)
    labels = {one.track: one.box.label for boxes in clip.boxes.values() for one in boxes}
    figure = Figure(figsize=(12, 1.05 + 0.26 * max(len(rows), 1)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.add_subplot()
    for cut in clip.cuts:
        panel.axvline(cut / clip.fps, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
    for y, track in enumerate(rows):
        for filled, first, count in _runs(tracks[track]):
            span = [(first / clip.fps, count / clip.fps)]
            look = {"facecolor": "white", "hatch": "//////"} if filled else {"facecolor": colour_of(track)}
            panel.broken_barh(span, (y - 0.36, 0.72), edgecolor=colour_of(track), linewidth=0.8, zorder=2, **look)
        filled = sum(is_filled for _, is_filled in tracks[track])
        words = f"{len(tracks[track]) - filled}" + f" + {filled}" * (filled > 0)
        panel.text(1.008, y, words, transform=panel.get_yaxis_transform(), va="center", fontsize=9, color=MUTED)
    panel.set_yticks(range(len(rows)), [f"{track} {labels[track]}"[:24] for track in rows], fontsize=9, color=INK)
    panel.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    panel.set_xlim(0, max(clip.pictures / clip.fps, clip.seconds))
    panel.set_xlabel("seconds", fontsize=9, color=MUTED)
    panel.tick_params(axis="x", labelsize=9, colors=MUTED)
    panel.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    if not rows:
        panel.text(0.5, 0.5, "no box in this clip", transform=panel.transAxes, ha="center", va="center", color=MUTED)
    handles = [
        Patch(facecolor="#8a929b", edgecolor="#8a929b", label="seen (pictures at the right)"),
        Patch(facecolor="white", edgecolor="#8a929b", hatch="//////", label="+ filled"),
        Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), label="cut"),
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    if len(tracks) > len(rows):
        figure.suptitle(f"the {len(rows)} longest of {len(tracks)} tracks", fontsize=9, color=MUTED, x=0.01, ha="left")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _runs(seen: list[tuple[int, bool]]) -> list[tuple[bool, int, int]]:
    """Runs of successive pictures: whether they were filled, the first, and how many."""
    runs: list[tuple[bool, int, int]] = []
    for index, filled in seen:
        if runs and runs[-1][0] == filled and sum(runs[-1][1:]) == index:
            runs[-1] = (filled, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((filled, index, 1))
    return runs


def _names_of_files(videos: Sequence[str]) -> list[str]:
    """For each clip how its files begin: letters that every system takes, and no two alike."""
    names: list[str] = []
    for video in videos:
        name = re.sub(r"[^\w.-]+", "_", video).lstrip("-.")[:80] or "clip"
        same = sum(other.casefold() == name.casefold() for other in names)
        while name.casefold() in {other.casefold() for other in names}:
            same += 1
            name = f"{name}_{same}"
        names.append(name)
    return names


def _page(path: Path, records: Path, shown: Sequence[ShownClip], files: Sequence[str]) -> Path:
    clips = [
        {
            "name": clip.video,
            "anchor": f"clip-{number}",
            "about": _about(clip),
            **{kind: urllib.parse.quote(f"{name}.{kind}.{end}") for kind, end in FILES.items()},
        }
        for number, (clip, name) in enumerate(zip(shown, files, strict=True))
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(page.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("view_boxes.html")
    title = f"Boxes of {records.resolve().name}"
    write_whole(path, template.render(title=title, legend=LEGEND, clips=clips).encode())
    return path
