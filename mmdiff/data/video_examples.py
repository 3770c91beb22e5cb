"""A record in, the arrays of one window of it out: frames, spectrograms, tokens, and the box of every patch."""

import dataclasses
import io
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32
from PIL import Image

from mmdiff.data.patch_boxes import patches_in_boxes
from mmdiff.data.records import MEL_BINS, MEL_FRAMES, SUBSEGMENTS, Boxes, Question, Record, RecordError
from mmdiff.data.tokenizer import AUDIOSPAN, MASK, PAD, START, Tokenizer
from mmdiff.ranges import check_range

TOKENS_PER_AUDIO_SPAN = 6


@dataclasses.dataclass
class DataConfig:
    """Where examples come from and what they look like. `official_code` changes the marked fields (*)."""

    records: str = ""  # the output folder of `mmdiff preprocess`
    tokenizer: str = ""  # the vocabulary file; the released lowercase_encoder.json for released weights
    segments: int = 7  # of a window; shorter windows are padded
    text_length: int = 256  # tokens of subtitles, or of audio, beside the frames
    augment: bool = True  # enlarge by up to 10% and crop at random, in training only
    crop_boxes_with_frame: bool = True  # (*) off: they, and similarity, are cropped by another draw, up to 10% astray
    include_answers: bool = False  # feed questions with their right answers, as the official code did: labels leak
    clip_question_span: bool = True  # (*) off: the span asked about may lie outside 0 to 100 percent of its window
    threads: int = 4  # that decode images

    def validate(self) -> None:
        """Raises ValueError for a value that means nothing."""
        if not self.records:
            raise ValueError("data.records is empty; give the output folder of `mmdiff preprocess`")
        if not self.tokenizer:
            raise ValueError("data.tokenizer is empty; give the path of the vocabulary file")
        check_range(self, "data", "segments", "text_length", "threads", least=1)


class VideoBatch(NamedTuple):
    """`b` windows: `s` segments, `l` text positions, `p` patches per frame. A single example has no axis `b`."""

    id: UInt32[Array, " b"]  # the same for the same window in every run
    frames: UInt8[Array, "b s h w 3"]
    frame_valid: Bool[Array, "b s"]
    mels: UInt8[Array, "b s 3 60 64"]
    mel_scale: Float[Array, " b"]
    text_tokens: Int[Array, "b l"]
    text_segments: Int[Array, "b l"]
    audio_tokens: Int[Array, "b l"]
    audio_segments: Int[Array, "b l"]
    audio_pointers: Int[Array, "b l"]
    track: Int[Array, "b s p"]  # of the box that may be hidden and holds the patch, from 1; 0 outside
    weight: Float[Array, "b s p"]  # how similar that box's label is to the anchors
    person: Bool[Array, "b s p"]  # inside any box that matches the anchors, whichever part may be hidden
    similarity: Float[Array, "b s p"]  # to the nearest anchor by CLIP, -1..1; 0 where the record holds none
    patch_valid: Bool[Array, "b s p"]  # real pixels, not padding


@dataclasses.dataclass(frozen=True)
class BoxRule:
    """Which boxes make patches that may be hidden: the host's share of a masking configuration."""

    weight: Callable[[str, str], float]  # of a label and the part of a person, or "object", that it is of
    where: str  # body, face or both
    min_coverage: float
    fallback_without: str  # "where", or "body": without any body box no box counts


NO_BOXES = BoxRule(weight=lambda label, part: 0.0, where="body", min_coverage=0.0, fallback_without="where")


@dataclasses.dataclass(frozen=True)
class Crop:
    """From pixels of a stored frame to pixels of the model's: scale, then shift."""

    scale: float
    top: int
    left: int


def draw_crop(stored: tuple[int, int], wanted: tuple[int, int], rng: np.random.Generator | None) -> Crop:
    """Fits the frame inside the model's, keeping its shape; with `rng`, up to 10% larger and shifted.

    What is left over on the right and below is black, where the released weights expect it.
    """
    fit = min(wanted[0] / stored[0], wanted[1] / stored[1])
    if rng is None:
        return Crop(fit, 0, 0)
    scale = fit * rng.uniform(1.0, 1.1)
    room = [max(round(side * scale) - space, 0) for side, space in zip(stored, wanted, strict=True)]
    return Crop(scale, *(int(rng.integers(0, slack + 1)) for slack in room))


def crop_frame(frame: UInt8[np.ndarray, "h w 3"], crop: Crop, wanted: tuple[int, int]) -> tuple[np.ndarray, tuple]:
    """The model's frame, and the height and width of it that hold real pixels."""
    size = (max(1, round(frame.shape[1] * crop.scale)), max(1, round(frame.shape[0] * crop.scale)))
    resized = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if crop.scale < 1 else cv2.INTER_LINEAR)
    part = resized[crop.top : crop.top + wanted[0], crop.left : crop.left + wanted[1]]
    out = np.zeros((*wanted, 3), np.uint8)
    out[: part.shape[0], : part.shape[1]] = part
    return out, part.shape[:2]


def cropped_size(stored: tuple[int, int], crop: Crop, wanted: tuple[int, int]) -> tuple[int, int]:
    """The height and width of the model's frame that hold real pixels, as `crop_frame` gives it, without any pixels."""
    sides = zip(stored, (crop.top, crop.left), wanted, strict=True)
    return tuple(min(max(1, round(side * crop.scale)) - shift, space) for side, shift, space in sides)


def decode_frame(jpeg: bytes, record: str) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels. Raises RecordError for bytes that are no image."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise _no_image(record)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def frame_size(jpeg: bytes, record: str) -> tuple[int, int]:
    """Height and width, read from the header alone. Raises RecordError for bytes that are no image."""
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return image.height, image.width
    except OSError:
        raise _no_image(record) from None


def _no_image(record: str) -> RecordError:
    return RecordError(f"record {record!r} holds a frame that is no JPEG; preprocess that video again")


def window_id(record: str, window: int) -> int:
    """A number for a window that is the same in every run."""
    return zlib.crc32(f"{record}#{window}".encode())


def window_segments(record: Record, window: int, longest: int) -> slice:
    """The segments of a window. Raises RecordError where they are more than the `longest` that the model reads."""
    first, count = (int(x) for x in record.windows[window])
    if count > longest:
        raise RecordError(
            f"record {record.id!r} has windows of {count} segments and the model reads {longest}: set "
            f"--config.data.segments={count}, or preprocess again with --segments {longest}"
        )
    return slice(first, first + count)


class BoxesOnPatches:
    """Which patches of a frame the boxes of a record hold."""

    def __init__(self, boxes: Boxes, rule: BoxRule, grid: tuple[int, int], patch_size: int):
        self._boxes, self._arguments = boxes, (grid, patch_size, rule.min_coverage)
        self._weight = np.array(list(map(rule.weight, boxes.label, boxes.part)), np.float32)
        parts = ("body", "face", "object") if rule.where == "both" else (rule.where, "object")
        self._is_part = np.array([part in parts for part in boxes.part], bool)
        if rule.fallback_without == "body" and "body" not in boxes.part:
            self._is_part[:] = False

    def __call__(
        self, frame: int, crop: Crop, stored: tuple[int, int], real: tuple[int, int]
    ) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, " p"], Bool[np.ndarray, " p"]]:
        """Track and weight of the box that may be hidden and holds each patch, and whether any box that matches does.

        `stored` is the size of the stored frame, `real` that of the real pixels in the model's.
        """
        here = self._boxes.frame == frame
        placed = self._boxes.box[here] * np.array(stored * 2) * crop.scale - np.array([crop.top, crop.left] * 2)
        placed = np.clip(placed, 0, np.array(real * 2))
        # Track 0 is a track: count from 1, so that 0 can mean none.
        track, weight, chosen = self._boxes.track[here] + 1, self._weight[here], self._is_part[here]
        person = patches_in_boxes(placed, track, weight, *self._arguments)[1] > 0
        return *patches_in_boxes(placed[chosen], track[chosen], weight[chosen], *self._arguments), person


def video_example(
    record: Record,
    window: int,
    config: DataConfig,
    grid: tuple[int, int],
    patch_size: int,
    rule: BoxRule,
    tokenizer: Tokenizer,
    rng: np.random.Generator | None,
) -> VideoBatch:
    """One window as arrays, without a batch axis; with `rng`, its frames cropped at random.

    Raises RecordError where the window has more segments than the configuration.
    """
    segments = window_segments(record, window, config.segments)
    count = segments.stop - segments.start
    wanted = (grid[0] * patch_size, grid[1] * patch_size)
    patches = grid[0] * grid[1]
    frames = np.zeros((config.segments, *wanted, 3), np.uint8)
    track = np.zeros((config.segments, patches), np.int32)
    weight = np.zeros((config.segments, patches), np.float32)
    person = np.zeros((config.segments, patches), bool)
    similarity = np.zeros((config.segments, patches), np.float32)
    patch_valid = np.zeros((config.segments, patches), bool)

    boxes_on_patches = BoxesOnPatches(record.boxes, rule, grid, patch_size)
    crop = box_crop = None
    for i, frame_index in enumerate(record.segments.frame[segments]):
        pixels = decode_frame(record.frames[frame_index], record.id)
        if crop is None:  # one draw for the whole window: its frames stay aligned with each other
            crop = draw_crop(pixels.shape[:2], wanted, rng if config.augment else None)
            apart = config.augment and not config.crop_boxes_with_frame
            box_crop = draw_crop(pixels.shape[:2], wanted, rng) if apart else crop
        frames[i], real = crop_frame(pixels, crop, wanted)
        patch_valid[i] = patches_within(real, grid, patch_size)
        if record.similarity is not None:
            places = patch_centres(box_crop, pixels.shape[:2], grid, patch_size)
            similarity[i] = np.where(patch_valid[i], values_at(record.similarity[frame_index], *places), 0)
        track[i], weight[i], person[i] = boxes_on_patches(int(frame_index), box_crop, pixels.shape[:2], real)

    mels = np.zeros((config.segments, SUBSEGMENTS, MEL_FRAMES, MEL_BINS), np.uint8)
    mels[:count] = record.segments.mel[segments]
    answers = [q for q in record.questions if q.window == window and q.label >= 0]
    prefix = []
    if config.include_answers and answers:
        # One of the window's questions; the first where nothing is drawn.
        question = answers[int(rng.integers(len(answers))) if rng is not None else 0]
        prefix = question_tokens(record, question, tokenizer, config.clip_question_span) + tokenizer.encode(
            f"answer: {question.answers[question.label]}"
        )
    has_audio = record.segments.has_audio[segments]
    text = text_sequence(prefix, record.segments.subtitle[segments], config.text_length, tokenizer)
    audio = audio_sequence(prefix, has_audio, config.text_length)
    return VideoBatch(
        id=np.uint32(window_id(record.id, window)),
        frames=frames,
        frame_valid=np.arange(config.segments) < count,
        mels=mels,
        mel_scale=np.float32(record.mel_scale),
        text_tokens=text[0],
        text_segments=text[1],
        audio_tokens=audio[0],
        audio_segments=audio[1],
        audio_pointers=audio[2],
        track=track,
        weight=weight,
        person=person,
        similarity=similarity,
        patch_valid=patch_valid,
    )


def patch_centres(
    crop: Crop, stored: tuple[int, int], grid: tuple[int, int], patch_size: int
) -> tuple[Float[np.ndarray, " h"], Float[np.ndarray, " w"]]:
    """Where in the stored frame the centres of the model's patches lie: shares of its height, and of its width.

    Those of the black area lie beyond 1.
    """
    rows, columns = (
        ((np.arange(count) + 0.5) * patch_size + shift) / (crop.scale * side)
        for count, shift, side in zip(grid, (crop.top, crop.left), stored, strict=True)
    )
    return rows, columns


def values_at(
    cells: Float[np.ndarray, "m n"], rows: Float[np.ndarray, " h"], columns: Float[np.ndarray, " w"]
) -> Float[np.ndarray, " h*w"]:
    """Cells that tile a frame, read bilinearly at shares of its height and width; beyond its edges as at them."""

    def between(share: np.ndarray, count: int) -> Float[np.ndarray, "k count"]:
        at = np.clip(share * count - 0.5, 0, count - 1)  # the first cell's centre is half a cell inside
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(count)))

    return (between(rows, cells.shape[0]) @ cells @ between(columns, cells.shape[1]).T).reshape(-1)


def patches_within(real: tuple[int, int], grid: tuple[int, int], patch_size: int) -> Bool[np.ndarray, " p"]:
    """Whether each patch holds real pixels, which fill this height and width of the model's frame."""
    rows = np.arange(grid[0]) * patch_size < real[0]
    columns = np.arange(grid[1]) * patch_size < real[1]
    return (rows[:, None] & columns[None, :]).reshape(-1)


def question_tokens(record: Record, question: Question, tokenizer: Tokenizer, clip_span: bool) -> list[int]:
    """ "<start> to <end>" START question: the span asked about, in percent of the window, clipped to 0..100 or not."""
    first, count = (int(x) for x in record.windows[question.window])
    begin, end = record.segments.start[first], record.segments.end[first + count - 1]
    share = [(time - begin) / (end - begin) for time in (question.start, question.end)]
    if clip_span:
        share = [min(max(x, 0), 1) for x in share]
    return [
        *tokenizer.encode(f"{int(100 * share[0])} to {int(100 * share[1])}"),
        START,
        *tokenizer.encode(question.text),
    ]


def candidate_tokens(
    record: Record, question: Question, answer: str, tokenizer: Tokenizer, clip_span: bool
) -> list[int]:
    """The question, one candidate answer, and the MASK whose representation is scored."""
    return [*question_tokens(record, question, tokenizer, clip_span), *tokenizer.encode(f"answer: {answer}"), MASK]


def text_sequence(
    prefix: list[int], subtitles: list[str], length: int, tokenizer: Tokenizer
) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Tokens and their segments: the prefix in segment 0 (START alone if there is none), subtitles from 1."""
    tokens, segments = _open(prefix, length)
    for segment, subtitle in enumerate(subtitles, start=1):
        ids = tokenizer.encode(subtitle) if subtitle else []
        tokens += ids
        segments += [segment] * len(ids)
    return _pad(tokens, length), _pad(segments, length)


def audio_sequence(
    prefix: list[int], has_audio: Bool[np.ndarray, " s"], length: int
) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Tokens, segments and audio spans: the prefix, then three spans of AUDIOSPAN per segment that has audio."""
    tokens, segments = _open(prefix, length)
    pointers = [0] * len(tokens)
    for segment in np.flatnonzero(has_audio):
        for third in range(SUBSEGMENTS):
            tokens += [AUDIOSPAN] * TOKENS_PER_AUDIO_SPAN
            segments += [int(segment) + 1] * TOKENS_PER_AUDIO_SPAN
            pointers += [int(segment) * SUBSEGMENTS + third] * TOKENS_PER_AUDIO_SPAN
    return _pad(tokens, length), _pad(segments, length), _pad(pointers, length)


def _open(prefix: list[int], length: int) -> tuple[list[int], list[int]]:
    """The prefix cut to the length; a MASK at its end is kept, for it is what the probe reads."""
    prefix = prefix or [START]
    if len(prefix) > length:
        prefix = [*prefix[: length - 1], prefix[-1]] if prefix[-1] == MASK else prefix[:length]
    return list(prefix), [0] * len(prefix)


def _pad(values: list[int], length: int) -> Int[np.ndarray, " l"]:
    out = np.full(length, PAD, np.int32)
    out[: len(values)] = values[:length]
    return out
