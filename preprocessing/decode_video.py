"""A video file in, RGB frames at a steady rate out, in one pass and in memory that does not grow with its length."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import UInt8

from preprocessing.problems import VideoError

SHORTER_SIDE, LONGER_SIDE = 450, 800  # The original stored its frames no larger than this.
TIMESTAMP_SLACK = 5e-4  # seconds: Matroska rounds times to the millisecond
LONGEST_STILL = 600.0  # seconds: a longer jump between two frames is a broken clock, not a still picture
MISSING_END = 0.5  # seconds: files may declare a few frames more than they hold


def open_video(path: Path) -> av.container.InputContainer:
    """An open container. Raises VideoError where the file is not one that FFmpeg can read."""
    try:
        if Path(path).stat().st_size == 0:
            raise VideoError(path, "is empty (0 bytes)", "copy or download it again")
        # A playlist that calls itself a video must not reach the network.
        return av.open(str(path), metadata_errors="replace", container_options={"protocol_whitelist": "file"})
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            path,
            f"is not a readable video ({getattr(error, 'strerror', None) or error})",
            "if it is a video it was cut off or damaged: copy or download it again; otherwise remove it",
        ) from None


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The stream that players show. Raises VideoError where there is none."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(path, f"has no video stream (it holds {kinds})", "give a file with moving pictures")
    if stream.codec_context is None:
        raise VideoError(path, "uses a video codec that FFmpeg does not know", "convert it to H.264 in an mp4")
    stream.codec_context.thread_count = 1  # One process per core is the parallelism here.
    return stream


def declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long the file says that its pictures last, None where it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    tag = stream.metadata.get("DURATION")  # Matroska: 00:00:02.966000000
    try:
        hours, minutes, seconds = tag.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (AttributeError, ValueError):
        pass
    # The container's own length is that of its longest stream, which may be the sound.
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None


class SampledFrames:
    """Iterates once over (time in seconds, RGB frame), `fps` times a second, from the start of the video stream.

    At time t stands the last frame that began at or before t. Only these are converted and resized (never enlarged).
    After the iteration `seconds` is the length found and `problem` says, in words, what was missing or damaged.
    Raises VideoError where nothing can be decoded.
    """

    def __init__(self, path: Path, fps: float):
        self.path = Path(path)
        self.fps = fps
        self.seconds = 0.0
        self.declared: float | None = None
        self.problem: str | None = None
        self.original: Path | None = None  # no frame of a video is a file
        self._size: tuple[int, int] | None = None
        self._quarter_turns = 0
        self._pixel_width = 1.0
        self._damaged = 0

    def __iter__(self) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
        with open_video(self.path) as container:
            stream = video_stream(container, self.path)
            self.declared = declared_seconds(container, stream)
            self._pixel_width = float(stream.sample_aspect_ratio or 1)
            count, shown, image = 0, None, None
            for time, frame in self._decoded(container, stream):
                while shown is not None and count / self.fps < time - TIMESTAMP_SLACK:
                    image = self._convert(shown) if image is None else image
                    yield count / self.fps, image
                    count += 1
                shown, image = frame, None
            while shown is not None and (count / self.fps < self.seconds - TIMESTAMP_SLACK or count == 0):
                image = self._convert(shown) if image is None else image
                yield count / self.fps, image
                count += 1
        if count == 0:
            raise VideoError(
                self.path, "holds no picture that can be decoded", "copy or download it again, or convert it"
            )
        self.problem = self._what_is_missing()

    def _decoded(self, container, stream) -> Iterator[tuple[float, av.VideoFrame]]:
        """Every frame with its time; damaged packets are counted and passed over."""
        period = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        tick = float(stream.time_base)
        origin = None if stream.start_time is None else stream.start_time * tick
        last = None
        for frame in self._frames(container, stream):
            time = None if frame.pts is None else frame.pts * tick
            if origin is None:
                origin = time or 0.0
            time = (0.0 if last is None else last + period) if time is None else time - origin
            if last is not None and not -1 < time - last < LONGEST_STILL:
                origin, time = origin + time - (last + period), last + period  # The clock was reset.
            last = time = max(time, last or 0.0)
            self.seconds = time + (frame.duration * tick if frame.duration else period)
            yield time, frame

    def _frames(self, container, stream) -> Iterator[av.VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FFmpegError:  # The container itself is broken from here on.
                self._damaged += 1
                return
            try:
                yield from packet.decode()
            except FFmpegError:
                self._damaged += 1

    def _convert(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        if self._size is None:  # All frames get the size of the first: some streams change theirs midway.
            self._size = kept_size(frame.width * self._pixel_width, frame.height)
            self._quarter_turns = round(frame.rotation / 90)
        width, height = self._size
        image = frame.to_ndarray(format="rgb24", width=width, height=height)
        return np.ascontiguousarray(np.rot90(image, self._quarter_turns))  # Telephones film upright on their side.

    def _what_is_missing(self) -> str | None:
        damaged = f"{self._damaged} damaged packets were passed over" if self._damaged else None
        if self.declared is not None and self.seconds < self.declared - MISSING_END:
            ends = f"its pictures end at {self.seconds:.1f} s of {self.declared:.1f} s declared"
            return f"{ends}; {damaged}" if damaged else ends
        return damaged


def kept_size(width: float, height: int) -> tuple[int, int]:
    """Width and height, reduced where needed to fit the two limits; the shape is kept."""
    scale = min(1.0, SHORTER_SIDE / min(width, height), LONGER_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
