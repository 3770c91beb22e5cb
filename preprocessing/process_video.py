"""One clip in, everything that is stored about it out; the same function under any engine that runs it."""

import dataclasses
import itertools
import math
import reprlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from mmdiff.data.records import PARTS, SECONDS_PER_SEGMENT, SOURCES, Boxes, Question, Record, Segments
from preprocessing import spectrogram
from preprocessing.clip import Clip
from preprocessing.decode_audio import decode_audio
from preprocessing.decode_images import ImageFrames
from preprocessing.decode_video import SampledFrames
from preprocessing.detect_people import Detector, LabelledBox
from preprocessing.human_boxes import boxes_at, in_pixels, tracks_by_label
from preprocessing.options import Options
from preprocessing.plan_windows import SEGMENT, THIRDS, WINDOWS, Plan, clipped, is_outside, last_picture, tiles
from preprocessing.problems import Problem, VideoError
from preprocessing.shot_cuts import ShotCuts
from preprocessing.subtitles import Cue, in_ascii, read_cues, subtitle_of_segments
from preprocessing.track_boxes import clean, track

BATCH = 16  # frames handed to the detector at once
SHORTER_SOUND = 1.0  # seconds by which sound may end before the pictures without a word
LONGEST_GAP = 1.0  # seconds for which a person may be hidden and still be the same track


@dataclasses.dataclass
class _Watched:
    """What one pass over the pictures gives."""

    seconds: float
    fps: float
    times: list[float]  # of every sampled picture
    boxes: list[list[LabelledBox]]
    tracks: list[list[int]]
    stills: dict[int, bytes]  # JPEG, of the sampled pictures that segments may look at
    size: tuple[int, int]  # height and width


def process(
    clip: Clip,
    options: Options,
    detector: Detector | None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> dict:
    """The records of a clip (plain dictionaries), with counts and problems, ready to be staged.

    Without a detector the boxes are those that came with the clip. `on_progress` is told the share that is done.
    Raises VideoError where the clip cannot be used at all.
    """
    problems: list[Problem] = []

    def note(stage: str, problem: str | None, advice: str) -> None:
        if problem:
            problems.append(Problem(clip.name, stage, problem, advice))

    watched = _watch(clip, options, detector, note, on_progress)
    last = last_picture(watched.seconds)
    spans = [clipped(span, last) for span in clip.spans if not is_outside(span, watched.seconds)]
    lay = WINDOWS[options.windows] if spans else tiles  # a clip about which nothing can be asked serves pretraining
    plans = lay(watched.seconds, spans, options.segments_per_window)
    cues = _read(clip, note)
    samples = _listen(clip, watched.seconds, note)
    records = [_record(clip.name, plan, watched, cues, samples) for plan in plans]
    return {
        "video": clip.name,
        "seconds": watched.seconds,
        "frames": len(watched.times),
        "boxes": {part: sum(box.part == part for frame in watched.boxes for box in frame) for part in PARTS},
        "tracks": len({number for frame in watched.tracks for number in frame}),
        "problems": [dataclasses.asdict(problem) for problem in problems],
        "records": [_staged(record) for record in records],
    }


def _staged(record: Record) -> dict:
    """A record as it is staged; its questions and its similarity come when the dataset is written."""
    values = dataclasses.asdict(record)
    return {name: value for name, value in values.items() if name != "similarity"}


def record_of(staged: dict, questions: list[Question], similarity: np.ndarray | None) -> Record:
    """The record of one that was staged, with what is not staged with it."""
    boxes, segments = Boxes(**staged["boxes"]), Segments(**staged["segments"])
    return Record(**{**staged, "boxes": boxes, "segments": segments, "questions": questions, "similarity": similarity})


def _record(name: str, plan: Plan, watched: _Watched, cues: list[Cue], samples: np.ndarray | None) -> Record:
    starts = [start / THIRDS for start in plan.segments]
    ends = [(start + SEGMENT) / THIRDS for start in plan.segments]
    looked_at = [_nearest(start, watched.fps, len(watched.times)) for start in plan.segments]
    indices = sorted(set(looked_at))
    mels, has_audio = _hear(samples, plan.segments)
    quantized, scale = spectrogram.quantize(mels)
    return Record(
        id=f"{name}~{plan.segments[0] // SEGMENT:04d}" if plan.tile else name,
        video=name,
        frames=[watched.stills[i] for i in indices],
        frame_times=np.array([watched.times[i] for i in indices], np.float32),
        boxes=_boxes_of(watched, indices),
        segments=Segments(
            start=np.array(starts, np.float32),
            end=np.array(ends, np.float32),
            frame=np.array([indices.index(i) for i in looked_at], np.int32),
            has_audio=has_audio,
            mel=quantized[..., :-1],
            subtitle=subtitle_of_segments(cues, starts, ends),
        ),
        mel_scale=scale,
        windows=np.array(plan.windows, np.int32),
    )


def _nearest(start: int, fps: float, count: int | None = None) -> int:
    """The sampled picture nearest to the middle of a segment that starts so many thirds of a second into the clip."""
    index = max(math.floor((start + SEGMENT / 2) / THIRDS * fps + 0.5), 0)
    return index if count is None else min(index, count - 1)


def _may_be_looked_at(index: int, fps: float, windows: str) -> bool:
    """Only of tiles it is known before the end of the clip which pictures they look at."""
    tile = round(index / fps / SECONDS_PER_SEGMENT - 0.5)
    return windows != "tiles" or _nearest(tile * SEGMENT, fps) == index


def _watch(clip: Clip, options: Options, detector: Detector | None, note, on_progress) -> _Watched:
    path = clip.media.pictures
    frames = ImageFrames(path) if path.is_dir() else SampledFrames(path, options.fps)
    begins_shot = ShotCuts()
    times, found, cuts, stills, batch, dropped = [], [], set(), {}, [], 0
    image = None

    def still() -> bytes:
        return frames.original.read_bytes() if frames.original else _jpeg(image, options.jpeg_quality)

    def detect() -> int:
        if detector:
            boxes_of_batch = _detect(detector, batch, path, options.detector)
        else:
            first = len(times) - len(batch)
            boxes_of_batch = [boxes_at(first + i, clip.boxes or {}) for i in range(len(batch))]
            boxes_of_batch = [[in_pixels(box, *image.shape[:2]) for box in boxes] for boxes in boxes_of_batch]
        cleaned = [clean(boxes, *image.shape[:2]) for boxes in boxes_of_batch]
        found.extend(boxes for boxes, _ in cleaned)
        batch.clear()
        on_progress(min(1.0, times[-1] / frames.declared) if frames.declared else 0.0)
        return sum(left_out for _, left_out in cleaned)

    for index, (time, image) in enumerate(frames):
        times.append(time)
        batch.append(image)
        if begins_shot(image):
            cuts.add(index)
        if _may_be_looked_at(index, frames.fps, options.windows):
            stills[index] = still()
        if len(batch) == BATCH:
            dropped += detect()
    if batch:
        dropped += detect()
    if len(times) - 1 not in stills:
        stills[len(times) - 1] = still()
    note("decode", frames.problem, "what could be read is used; copy or download it again for the rest")
    if dropped:
        note(
            "detect",
            f"{dropped} boxes lay outside their frame, had no area or were not numbers",
            "they are left out; if the detector is yours, it should give y0, x0, y1, x1 in pixels of the frame"
            if detector
            else "they are left out",
        )
    if detector:
        tracks = track(found, cuts, longest_gap=round(LONGEST_GAP * frames.fps))
    else:
        tracks = tracks_by_label(found)
    return _Watched(frames.seconds, frames.fps, times, found, tracks, stills, image.shape[:2])


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


def _read(clip: Clip, note) -> list[Cue]:
    source = clip.media.subtitles or clip.media.pictures
    if clip.media.cues is not None:
        cues, problem = list(clip.media.cues), None
    else:
        cues, problem = ([], None) if source.is_dir() else read_cues(source)
    note("subtitles", problem, "correct or remove the subtitles; the video is used with those that could be read")
    return in_ascii(cues) if clip.media.english else cues


def _listen(clip: Clip, seconds: float, note) -> np.ndarray | None:
    """The sound of the whole clip, its loudest sample 1; None where there is none."""
    source = clip.media.audio or clip.media.pictures
    if source.is_dir():
        return None
    if clip.media.audio:  # The last segment may end behind the last picture.
        seconds += SECONDS_PER_SEGMENT
    advice = "the sound that could be read is used; copy or download the file again for the rest"
    try:
        samples, problem = decode_audio(source, spectrogram.SAMPLE_RATE, seconds, clip.media.audio is not None)
    except VideoError as error:
        if clip.media.audio is None:
            raise
        samples, problem = None, f"its sound {source.name} {error.problem.problem}"
    if clip.media.audio and samples is not None and not problem:
        heard = len(samples) / spectrogram.SAMPLE_RATE
        if heard < seconds - SECONDS_PER_SEGMENT - SHORTER_SOUND:
            problem = f"its sound {source.name} ends at {heard:.1f} s"
    note("audio", problem, advice)
    return None if samples is None else spectrogram.normalise(samples)


def _hear(samples: np.ndarray | None, starts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The spectrograms of every segment [s, 3, 60, 65], and whether there was anything to hear."""
    mels = np.stack([spectrogram.silence()] * len(starts))
    has_audio = np.zeros(len(starts), bool)
    length = spectrogram.SAMPLES_PER_SEGMENT
    for i, start in enumerate(starts):
        first = start * spectrogram.SAMPLE_RATE // THIRDS
        piece = np.zeros(0) if samples is None else samples[max(first, 0) : max(first + length, 0)]
        if len(piece):
            before = max(-first, 0)
            mels[i] = spectrogram.log_mel(np.pad(piece, (before, length - before - len(piece))))
            has_audio[i] = True
    return mels, has_audio
