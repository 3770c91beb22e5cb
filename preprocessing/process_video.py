"""One clip in, everything that is stored about it out; the same function under any engine that runs it."""

import contextlib
import dataclasses
import itertools
import math
import reprlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mmdiff.data.records import PARTS, SECONDS_PER_SEGMENT, SOURCES, Question, Record, Segments
from preprocessing import spectrogram
from preprocessing.boxes_table import ClipBoxes
from preprocessing.clip import Clip
from preprocessing.decode_audio import Sound, decode_audio
from preprocessing.decode_images import ImageFrames
from preprocessing.decode_video import SampledFrames
from preprocessing.detect_people import Detector, LabelledBox
from preprocessing.human_boxes import boxes_at, in_pixels, tracks_by_label
from preprocessing.options import Options
from preprocessing.plan_windows import SEGMENT, THIRDS, WINDOWS, Plan, clipped, is_outside, last_picture, tiles
from preprocessing.problems import Problem, VideoError
from preprocessing.shot_cuts import ShotCuts
from preprocessing.subtitles import Cue, in_ascii, read_cues, subtitle_of_segments
from preprocessing.suppress import suppress
from preprocessing.track_boxes import clean, follow

SHORTER_SOUND = 1.0  # seconds by which sound may end before the pictures without a word


@dataclasses.dataclass
class Processed:
    """What one clip gave. Its records come one by one, once, while the files behind them are open."""

    short: dict  # counts, times and problems, as plain values
    boxes: ClipBoxes  # of all pictures that were looked at
    records: Iterator[dict]  # plain dictionaries without boxes, questions and similarity
    took: "Stopwatch"  # seconds by stage, so far


@dataclasses.dataclass
class _Watched:
    """What one pass over the pictures gives."""

    seconds: float
    fps: float
    native_fps: float
    drift: float  # seconds by which a frame lies off that rate, at most
    times: list[float]  # of every sampled picture
    cuts: list[int]  # pictures that begin a shot
    boxes: ClipBoxes
    stills: "_Stills"  # of the sampled pictures that segments may look at


class _Stills:
    """JPEGs by number of their picture, in a temporary file: memory does not grow with the length of a video."""

    def __init__(self):
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  until `close`
        self._places: dict[int, tuple[int, int]] = {}

    def __setitem__(self, picture: int, jpeg: bytes) -> None:
        self._places[picture] = (self._file.seek(0, 2), len(jpeg))
        self._file.write(jpeg)

    def __getitem__(self, picture: int) -> bytes:
        start, length = self._places[picture]
        self._file.seek(start)
        return self._file.read(length)

    def __contains__(self, picture: int) -> bool:
        return picture in self._places

    def close(self) -> None:
        self._file.close()


class Stopwatch(dict):
    """Seconds by stage; what is timed within another stage does not count there."""

    _outer: str | None = None

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        outer, self._outer = self._outer, stage
        began = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - began
            self[stage] = self.get(stage, 0.0) + taken
            self._outer = outer
            if outer:
                self[outer] = self.get(outer, 0.0) - taken

    def over(self, stage: str, values: Iterator) -> Iterator:
        """The values, while their making is timed."""
        nothing = object()
        while True:
            with self(stage):
                value = next(values, nothing)
            if value is nothing:
                return
            yield value  # outside, so that what is done with it is not timed


@contextlib.contextmanager
def process(
    clip: Clip,
    options: Options,
    detector: Detector | None,
    on_progress: Callable[[float, int], None] = lambda share, pictures: None,
) -> Iterator[Processed]:
    """Looks at a clip; what it gives is ready to be staged within the block.

    Without a detector the boxes are those that came with the clip. `on_progress` is told the share that is done and how
    many pictures have been looked at. Raises VideoError where the clip cannot be used at all.
    """
    problems: list[Problem] = []
    took = Stopwatch()

    def note(stage: str, problem: str | None, advice: str) -> None:
        if problem:
            problems.append(Problem(clip.name, stage, problem, advice))

    with contextlib.ExitStack() as files:
        stills = _Stills()
        files.callback(stills.close)
        watched = _watch(clip, options, detector, stills, note, on_progress, took)
        last = last_picture(watched.seconds)
        spans = [clipped(span, last) for span in clip.spans if not is_outside(span, watched.seconds)]
        lay = WINDOWS[options.windows] if spans else tiles  # a clip about which nothing can be asked serves pretraining
        plans = lay(watched.seconds, spans, options.segments_per_window)
        cues = _read(clip, note)
        with took("sound"):
            sound = _listen(clip, watched.seconds, note)
        if sound:
            files.callback(sound.close)
        parts, boxes = watched.boxes.part, watched.boxes
        yield Processed(
            short={
                "video": clip.name,
                "seconds": watched.seconds,
                "frames": len(watched.times),
                "native_fps": watched.native_fps,
                "drift": watched.drift,
                "cuts": watched.cuts,
                "boxes": {part: parts.count(part) for part in PARTS},
                "filled": boxes.source.count("filled"),
                "tracks": len(set(boxes.track.tolist())),
                "problems": [dataclasses.asdict(problem) for problem in problems],
            },
            boxes=boxes,
            records=took.over("sound", (_record(clip.name, plan, watched, cues, sound) for plan in plans)),
            took=took,
        )


def record_of(staged: dict, boxes: ClipBoxes, questions: list[Question], similarity: np.ndarray | None) -> Record:
    """The record of one that was staged, with what is not staged with it."""
    values = {name: value for name, value in staged.items() if name != "pictures"}
    values["segments"] = Segments(**staged["segments"])
    return Record(**values, boxes=boxes.at(staged["pictures"]), questions=questions, similarity=similarity)


def _record(name: str, plan: Plan, watched: _Watched, cues: list[Cue], sound: Sound | None) -> dict:
    """A record as it is staged: its boxes, its questions and its similarity come when the dataset is written."""
    starts = [start / THIRDS for start in plan.segments]
    ends = [(start + SEGMENT) / THIRDS for start in plan.segments]
    looked_at = [_nearest(start, watched.fps, len(watched.times)) for start in plan.segments]
    indices = sorted(set(looked_at))
    mels, has_audio = _hear(sound, plan.segments)
    quantized, scale = spectrogram.quantize(mels)
    segments = Segments(
        start=np.array(starts, np.float32),
        end=np.array(ends, np.float32),
        frame=np.array([indices.index(i) for i in looked_at], np.int32),
        has_audio=has_audio,
        mel=quantized[..., :-1],
        subtitle=subtitle_of_segments(cues, starts, ends),
    )
    return {
        "id": f"{name}~{plan.segments[0] // SEGMENT:04d}" if plan.tile else name,
        "video": name,
        "pictures": indices,
        "frames": [watched.stills[i] for i in indices],
        "frame_times": np.array([watched.times[i] for i in indices], np.float32),
        "segments": dataclasses.asdict(segments),
        "mel_scale": scale,
        "windows": np.array(plan.windows, np.int32),
    }


def _nearest(start: int, fps: float, count: int | None = None) -> int:
    """The sampled picture nearest to the middle of a segment that starts so many thirds of a second into the clip."""
    index = max(math.floor((start + SEGMENT / 2) / THIRDS * fps + 0.5), 0)
    return index if count is None else min(index, count - 1)


def _may_be_looked_at(index: int, fps: float, windows: str) -> bool:
    """Only of tiles it is known before the end of the clip which pictures they look at."""
    tile = round(index / fps / SECONDS_PER_SEGMENT - 0.5)
    return windows != "tiles" or _nearest(tile * SEGMENT, fps) == index


def _watch(
    clip: Clip, options: Options, detector: Detector | None, stills: _Stills, note, on_progress, took: Stopwatch
) -> _Watched:
    path = clip.media.pictures
    frames = ImageFrames(path) if path.is_dir() else SampledFrames(path, options.fps)
    begins_shot = ShotCuts()
    times, found, cuts, batch, dropped = [], [], [], [], 0
    image = None

    def keep_still(index: int) -> None:
        with took("write"):
            stills[index] = frames.original.read_bytes() if frames.original else _jpeg(image, options.jpeg_quality)

    def detect() -> int:
        with took("detect"):
            boxes_of_batch = _detect(detector, batch, path, options.detector) if detector else drawn()
        cleaned = [clean(boxes, *image.shape[:2]) for boxes in boxes_of_batch]
        found.extend(suppress(boxes, options.nms) if detector else boxes for boxes, _ in cleaned)
        on_progress(min(1.0, times[-1] / frames.declared) if frames.declared else 0.0, len(batch))
        batch.clear()
        return sum(left_out for _, left_out in cleaned)

    def drawn() -> list[list[LabelledBox]]:
        numbers = range(len(times) - len(batch), len(times))
        return [[in_pixels(box, *image.shape[:2]) for box in boxes_at(number, clip.boxes or {})] for number in numbers]

    for index, (moment, image) in enumerate(took.over("decode", iter(frames))):
        times.append(moment)
        batch.append(image)
        if begins_shot(image):
            cuts.append(index)
        if _may_be_looked_at(index, frames.fps, options.windows):
            keep_still(index)
        if len(batch) == options.batch:
            dropped += detect()
    if batch:
        dropped += detect()
    if len(times) - 1 not in stills:
        keep_still(len(times) - 1)
    note("decode", frames.problem, "what could be read is used; copy or download it again for the rest")
    if dropped:
        note(
            "detect",
            f"{dropped} boxes lay outside their frame, had no area or were not numbers",
            "they are left out; if the detector is yours, it should give y0, x0, y1, x1 in pixels of the frame"
            if detector
            else "they are left out",
        )
    with took("track"):
        if detector:
            found, tracks = follow(found, cuts, frames.fps, detector.threshold, options.longest_gap, options.tracker)
        else:
            tracks = tracks_by_label(found)
    (width, height), (rows, columns) = frames.shown_size, image.shape[:2]
    boxes = ClipBoxes.of(clip.name, frames.fps, width, height, found, tracks, width / columns, height / rows)
    return _Watched(frames.seconds, frames.fps, frames.native_fps, frames.drift, times, cuts, boxes, stills)


def _detect(detector: Detector, frames: list, path: Path, name: str) -> list[list[LabelledBox]]:
    advice = "see the interface in preprocessing/detect_people.py, or choose another detector"
    try:
        found = detector.boxes(list(frames))
    except Exception as error:  # A detector is anybody's code: its failure is a problem of this video only.
        raise VideoError(path, f"detector {name!r} failed: {error!r}", advice, "detect", transient=True) from error
    if wrong := _wrong(found, len(frames)):
        raise VideoError(path, f"detector {name!r} gave {wrong}", advice, "detect", transient=True)
    return found


def _wrong(found: object, frames: int) -> str | None:
    """What a detector gave instead of a list of LabelledBox for each frame; None where it gave that."""
    if not isinstance(found, list) or not all(isinstance(boxes, list) for boxes in found):
        return f"{reprlib.repr(found)}, which is not a list of lists"
    if len(found) != frames:
        return f"boxes for {len(found)} of {frames} frames"
    for box in itertools.chain(*found):
        if not isinstance(box, LabelledBox):
            return f"{reprlib.repr(box)}, which is not a LabelledBox"
        if box.part not in PARTS:
            return f"the part {box.part!r}, which is none of {PARTS}"
        if box.source not in SOURCES:
            return f"the source {box.source!r}, which is none of {SOURCES}"
        if not isinstance(box.label, str):
            return f"the label {box.label!r}, which is not a text"
        for number in (box.y0, box.x0, box.y1, box.x1, box.score):
            if not hasattr(number, "__float__"):
                return f"{number!r} for an edge or a score, which is not a number"
    return None


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    written, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert written
    return data.tobytes()


def _read(clip: Clip, note) -> list[Cue]:
    source = clip.media.subtitles or clip.media.pictures
    cues, problem = list(clip.media.cues or ()), None
    if clip.media.cues is None and not source.is_dir():
        try:
            cues, problem = read_cues(source)
        except VideoError as error:
            if error.transient:
                raise
            problem = f"its subtitles {source.name} {error.problem.problem}"
    note("subtitles", problem, "correct or remove the subtitles; the video is used with those that could be read")
    return in_ascii(cues) if clip.media.english else cues


def _listen(clip: Clip, seconds: float, note) -> Sound | None:
    """The sound of the whole clip; None where there is none."""
    source = clip.media.audio or clip.media.pictures
    if source.is_dir():
        return None
    if clip.media.audio:  # The last segment may end behind the last picture.
        seconds += SECONDS_PER_SEGMENT
    advice = "the sound that could be read is used; copy or download the file again for the rest"
    try:
        sound, problem = decode_audio(source, spectrogram.SAMPLE_RATE, seconds, clip.media.audio is not None)
    except VideoError as error:
        if clip.media.audio is None or error.transient:
            raise
        sound, problem = None, f"its sound {source.name} {error.problem.problem}"
    if clip.media.audio and sound is not None and not problem:
        heard = sound.count / spectrogram.SAMPLE_RATE
        if heard < seconds - SECONDS_PER_SEGMENT - SHORTER_SOUND:
            problem = f"its sound {source.name} ends at {heard:.1f} s"
    note("audio", problem, advice)
    return sound


def _hear(sound: Sound | None, starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The spectrograms of every segment [s, 3, 60, 65], and whether there was anything to hear."""
    mels = np.stack([spectrogram.silence()] * len(starts))
    has_audio = np.zeros(len(starts), bool)
    length = spectrogram.SAMPLES_PER_SEGMENT
    for i, start in enumerate(starts):
        first = start * spectrogram.SAMPLE_RATE // THIRDS
        if sound is not None and first < sound.count and first + length > 0:
            mels[i] = spectrogram.log_mel(spectrogram.normalise(sound.piece(first, length), sound.peak))
            has_audio[i] = True
    return mels, has_audio
