"""One video in, everything that is stored about it out; the same function under any engine that runs it."""

import dataclasses
import itertools
import reprlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mmdiff.data.records import PARTS, SECONDS_PER_SEGMENT, SOURCES, Boxes, Question, Record, Segments
from preprocessing import spectrogram
from preprocessing.decode_audio import decode_audio
from preprocessing.decode_video import SampledFrames
from preprocessing.detect_people import Detector, LabelledBox
from preprocessing.options import Options
from preprocessing.problems import Problem, VideoError
from preprocessing.shot_cuts import ShotCuts
from preprocessing.subtitles import read_cues, subtitle_of_segments
from preprocessing.track_boxes import clean, track

BATCH = 16  # frames handed to the detector at once
LONGEST_GAP = 1.0  # seconds for which a person may be hidden and still be the same track


@dataclasses.dataclass
class _Watched:
    """What one pass over the pictures gives."""

    seconds: float
    times: list[float]  # of every sampled frame
    boxes: list[list[LabelledBox]]
    tracks: list[list[int]]
    stills: dict[int, bytes]  # JPEG, of the sampled frames that segments look at
    size: tuple[int, int]  # height and width


def process(
    path: Path,
    options: Options,
    detector: Detector,
    name: str,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict:
    """The windows of a video as records (plain dictionaries), with counts and problems, ready to be staged.

    `name` is what the records call the video; `on_progress` is told the share of the video that is done.
    Raises VideoError where the video cannot be used at all.
    """
    problems: list[Problem] = []

    def note(stage: str, problem: str | None, advice: str) -> None:
        if problem:
            problems.append(Problem(name, stage, problem, advice))

    watched = _watch(path, options, detector, note, on_progress)
    segments = range(segment_count(watched.seconds))
    starts = [i * SECONDS_PER_SEGMENT for i in segments]
    ends = [(i + 1) * SECONDS_PER_SEGMENT for i in segments]
    cues, problem = read_cues(path)
    note("subtitles", problem, "correct or remove the subtitles; the video is used with those that could be read")
    texts = subtitle_of_segments(cues, starts, ends)
    mels, has_audio = _listen(path, watched.seconds, len(segments), note)
    windows = []
    for first in range(0, len(segments), options.segments_per_window):
        chosen = slice(first, min(first + options.segments_per_window, len(segments)))
        looked_at = [_nearest(i, options.fps, len(watched.times)) for i in segments[chosen]]
        indices = sorted(set(looked_at))
        quantized, scale = spectrogram.quantize(mels[chosen])
        record = Record(
            id=f"{name}~{first:04d}",
            video=name,
            frames=[watched.stills[i] for i in indices],
            frame_times=np.array([watched.times[i] for i in indices], np.float32),
            boxes=_boxes_of(watched, indices),
            segments=Segments(
                start=np.array(starts[chosen], np.float32),
                end=np.array(ends[chosen], np.float32),
                frame=np.array([indices.index(i) for i in looked_at], np.int32),
                has_audio=has_audio[chosen],
                mel=quantized[..., :-1],
                subtitle=texts[chosen],
            ),
            mel_scale=scale,
            windows=np.array([[0, len(looked_at)]], np.int32),
        )
        windows.append(dataclasses.asdict(record))
    return {
        "video": name,
        "seconds": watched.seconds,
        "frames": len(watched.times),
        "boxes": {part: sum(box.part == part for frame in watched.boxes for box in frame) for part in PARTS},
        "tracks": len({number for frame in watched.tracks for number in frame}),
        "problems": [dataclasses.asdict(problem) for problem in problems],
        "windows": windows,
    }


def record_of(window: dict, questions: list[Question]) -> Record:
    """The record of one staged window, with its questions."""
    boxes, segments = Boxes(**window["boxes"]), Segments(**window["segments"])
    return Record(**{**window, "boxes": boxes, "segments": segments, "questions": questions})


def segment_count(seconds: float) -> int:
    """How many segments have their middle inside the video; at least one."""
    return max(1, int(np.ceil(seconds / SECONDS_PER_SEGMENT - 0.5)))


def _nearest(segment: int, fps: float, count: int | None = None) -> int:
    """The sampled frame nearest to the middle of a segment."""
    index = int((segment + 0.5) * SECONDS_PER_SEGMENT * fps + 0.5)
    return index if count is None else min(index, count - 1)


def _watch(path: Path, options: Options, detector: Detector, note, on_progress) -> _Watched:
    frames = SampledFrames(path, options.fps)
    begins_shot = ShotCuts()
    times, found, cuts, stills, batch, dropped = [], [], set(), {}, [], 0
    segment, image = 0, None

    def detect() -> int:
        cleaned = [clean(boxes, *image.shape[:2]) for boxes in _detect(detector, batch, path, options.detector)]
        found.extend(boxes for boxes, _ in cleaned)
        batch.clear()
        on_progress(min(1.0, times[-1] / frames.declared) if frames.declared else 0.0)
        return sum(left_out for _, left_out in cleaned)

    for index, (time, image) in enumerate(frames):
        times.append(time)
        batch.append(image)
        if begins_shot(image):
            cuts.add(index)
        while _nearest(segment, options.fps) < index:
            segment += 1
        if _nearest(segment, options.fps) == index:
            stills[index] = _jpeg(image, options.jpeg_quality)
        if len(batch) == BATCH:
            dropped += detect()
    if batch:
        dropped += detect()
    stills.setdefault(len(times) - 1, _jpeg(image, options.jpeg_quality))
    note("decode", frames.problem, "the part that could be read is used; copy or download the file again for the rest")
    if dropped:
        note(
            "detect",
            f"{dropped} boxes lay outside their frame, had no area or were not numbers",
            "they are left out; if the detector is yours, it should give y0, x0, y1, x1 in pixels of the frame",
        )
    tracks = track(found, cuts, longest_gap=round(LONGEST_GAP * options.fps))
    return _Watched(frames.seconds, times, found, tracks, stills, image.shape[:2])


def _detect(detector: Detector, frames: list, path: Path, name: str) -> list[list[LabelledBox]]:
    advice = "see the interface in preprocessing/detect_people.py, or choose another detector"
    try:
        found = detector.boxes(list(frames))
    except Exception as error:  # A detector is anybody's code: its failure is a problem of this video only.
        raise VideoError(path, f"detector {name!r} failed: {error!r}", advice, "detect") from error
    if wrong := _wrong(found, len(frames)):
        raise VideoError(path, f"detector {name!r} gave {wrong}", advice, "detect")
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


def _boxes_of(watched: _Watched, indices: list[int]) -> Boxes:
    """The boxes of some sampled frames, as shares of the frame."""
    rows = [
        (place, box, number)
        for place, index in enumerate(indices)
        for box, number in zip(watched.boxes[index], watched.tracks[index], strict=True)
    ]
    height, width = watched.size
    corners = [(box.y0 / height, box.x0 / width, box.y1 / height, box.x1 / width) for _, box, _ in rows]
    return Boxes(
        frame=np.array([place for place, _, _ in rows], np.int32),
        box=np.clip(np.array(corners, np.float32).reshape(-1, 4), 0, 1),
        label=[box.label for _, box, _ in rows],
        part=[box.part for _, box, _ in rows],
        score=np.array([box.score for _, box, _ in rows], np.float32),
        track=np.array([number for _, _, number in rows], np.int32),
        source=[box.source for _, box, _ in rows],
    )


def _listen(path: Path, seconds: float, count: int, note) -> tuple[np.ndarray, np.ndarray]:
    """The spectrograms of every segment [s, 3, 60, 65], and whether there was anything to hear."""
    samples, problem = decode_audio(path, spectrogram.SAMPLE_RATE, seconds)
    note("audio", problem, "the sound that could be read is used; copy or download the file again for the rest")
    mels = np.stack([spectrogram.silence()] * count)
    has_audio = np.zeros(count, bool)
    if samples is not None:
        samples = spectrogram.normalise(samples)
        for i in range(count):
            piece = samples[i * spectrogram.SAMPLES_PER_SEGMENT :][: spectrogram.SAMPLES_PER_SEGMENT]
            if len(piece):
                mels[i] = spectrogram.log_mel(np.pad(piece, (0, spectrogram.SAMPLES_PER_SEGMENT - len(piece))))
                has_audio[i] = True
    return mels, has_audio
