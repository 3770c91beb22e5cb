"""A video file in, RGB frames at a steady rate out, in one pass and in memory that does not grow with its length."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

from preprocessing.problems import VideoError, may_pass

SHORTER_SIDE, LONGER_SIDE = 450, 800  # The original stored its frames no larger than this.
TIMESTAMP_SLACK = 5e-4  # seconds: Matroska rounds times to the millisecond
LONGEST_STILL = 600.0  # seconds: a longer jump between two frames is a broken clock, not a still picture
LONGEST_PERIOD = 30.0  # seconds from picture to picture, on average: more is a broken clock too
MISSING_END = 0.5  # seconds: files may declare a few frames more than they hold
MOST_PIXELS = 1 << 26  # 8192 x 8192: a larger frame is a damaged header, and would fill the memory
WIDEST_PIXEL = 8.0  # times as wide as high, or as high as wide: more is a damaged header
FASTEST = 1000.0  # pictures a second: more is the unit of a clock, not a rate
READ_AHEAD = 1 << 16  # bytes
AGAIN = "it is tried again where `--retries` allows; if that does not help, see to the disk or the network"


class _File:
    """What FFmpeg reads a video through: one regular file, and nothing else on this machine or beyond it.

    FFmpeg takes names such as `concat:a|b` or `http:...` for addresses, and takes a read error for the end of the
    file; here names are not looked at, and the error is kept.
    """

    def __init__(self, path: Path):
        # A named pipe would be waited for.
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        self.name = Path(path).name
        self.error: OSError | None = None
        self.before = os.fstat(self._number)

    def read(self, size: int) -> bytes:
        try:
            return b"" if self.error else os.read(self._number, size)
        except OSError as error:
            self.error = error
            return b""

    def seek(self, offset: int, whence: int) -> int:
        return os.lseek(self._number, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._number, 0, os.SEEK_CUR)

    def check(self, path: Path) -> None:
        """Raises VideoError where a read failed, or where the file is another than when it was opened."""
        if self.error:
            said = self.error.strerror or self.error
            raise VideoError(path, f"could not be read to its end ({said})", AGAIN, transient=True)
        after = os.fstat(self._number)
        if (after.st_size, after.st_mtime_ns) != (self.before.st_size, self.before.st_mtime_ns):
            raise VideoError(path, "changed while it was read", "wait until it is wholly there", transient=True)

    def close(self) -> None:
        os.close(self._number)


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[av.container.InputContainer]:
    """An open container, which can reach no other file.

    Raises VideoError where the file is not one that FFmpeg can read. At the end of the `with` statement it is raised
    also where reading failed in between, in place of what came of that, or where the file has changed: both transient.
    """
    try:
        file = _File(path)
    except (OSError, ValueError) as error:
        if may_pass(error):
            raise VideoError(path, f"could not be opened ({error.strerror})", AGAIN, transient=True) from None
        raise _unreadable(path, error) from None
    try:
        _refuse_what_is_no_video(file, path)
        try:
            container = av.open(
                file,
                "r",
                metadata_errors="replace",
                buffer_size=READ_AHEAD,
                options={"max_pixels": str(MOST_PIXELS)},
                container_options={"protocol_whitelist": "none"},  # Playlists must not reach other files.
            )
        except (FFmpegError, OSError, ValueError, MemoryError) as error:
            file.check(path)
            refuse_if_passing(error, path)
            raise _unreadable(path, error) from None
        with container:
            if container.format.name.endswith("_pipe"):
                raise VideoError(path, "is a picture and not a video", "remove it, or give a video file")
            try:
                yield container
            except Exception:
                file.check(path)
                raise
        file.check(path)
    finally:
        file.close()


def _refuse_what_is_no_video(file: _File, path: Path) -> None:
    if not stat.S_ISREG(file.before.st_mode):
        raise VideoError(path, "is not a file but a folder, a pipe or a device", "give a video file")
    if file.before.st_size == 0:
        raise VideoError(path, "is empty (0 bytes)", "copy or download it again")


def _unreadable(path: Path, error: Exception) -> VideoError:
    said = getattr(error, "strerror", None) or error
    return VideoError(
        path,
        f"is not a readable video ({said})",
        "if it is a video it was cut off or damaged: copy or download it again; otherwise remove it",
    )


def refuse_if_passing(error: Exception, path: Path) -> None:
    """Raises VideoError where decoding failed for want of memory, which is no damage to be passed over."""
    # Other reasons that may pass are seen by `_File`; FFmpeg says "input/output error" for damage too.
    if isinstance(error, MemoryError):
        raise VideoError(
            path,
            "asks for more memory than there is",
            "if other programs show it use fewer `--workers`, else it is damaged: copy or download it again",
            transient=True,
        ) from None


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The stream that players show. Raises VideoError where there is none."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(path, f"has no video stream (it holds {kinds})", "give a file with moving pictures")
    if stream.codec_context is None:
        raise VideoError(path, "uses a video codec that FFmpeg does not know", "convert it to H.264 in an mp4")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MOST_PIXELS:
        raise VideoError(path, f"declares pictures of {width}x{height} pixels", "make it smaller, or copy it again")
    stream.codec_context.thread_count = 1  # One process per core is the parallelism here.
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # Pictures may grow midway.
    return stream


def packets_of(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.Packet]:
    """The packets of a stream, and last an empty one, which makes the decoder give what it still holds."""
    try:
        yield from container.demux(stream)
    except IndexError:
        # PyAV's, after all of these: another stream appeared midway, as in broadcasts, which it has no number for.
        return


def declared_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long the file says that its pictures last, None where it does not say."""
    if stream.duration and stream.duration > 0:
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
    From the first frame on, `shown_size` is the width and height in full resolution, as players show it, and
    `native_fps` the pictures a second in the file, on average. After the iteration `seconds` is the length found and
    `problem` says, in words, what was missing or damaged. Raises VideoError where nothing can be decoded.
    """

    def __init__(self, path: Path, fps: float):
        self.path = Path(path)
        self.fps = fps
        self.seconds = 0.0
        self.declared: float | None = None
        self.problem: str | None = None
        self.original: Path | None = None  # no frame of a video is a file
        self.shown_size: tuple[int, int] | None = None
        self.native_fps: float | None = None
        self.drift = 0.0  # seconds by which a frame lies off that rate, at most
        self._size: tuple[int, int] | None = None
        self._quarter_turns = 0
        self._pixel_width = 1.0
        self._damaged = 0  # packets that gave nothing
        self._flawed = 0  # pictures of which the decoder made up a part
        self._reformatter = VideoReformatter()  # One for all frames: to set it up takes as long as to use it.

    def __iter__(self) -> Iterator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
        with open_video(self.path) as container:
            stream = video_stream(container, self.path)
            self.declared = declared_seconds(container, stream)
            self.native_fps = _rate(stream)
            self._pixel_width = _pixel_width(stream)
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
        period = 1 / self.native_fps
        tick = float(stream.time_base)
        origin = None if stream.start_time is None else stream.start_time * tick
        last = None
        for number, frame in enumerate(self._frames(container, stream)):
            time = None if frame.pts is None else frame.pts * tick
            if origin is None:
                origin = time or 0.0
            following = 0.0 if last is None else last + period
            time = following if time is None else time - origin
            if not -1 < time - (last or 0.0) < LONGEST_STILL:  # The clock was reset.
                origin, time = origin + time - following, following
            last = time = max(time, last or 0.0)
            self.drift = max(self.drift, abs(time - number * period))
            if time > max(LONGEST_STILL, number * LONGEST_PERIOD):
                raise VideoError(
                    self.path, f"shows {number} pictures in {time:.0f} s: its clock is broken", "convert it to an mp4"
                )
            lasts = frame.duration * tick if frame.duration else period
            self.seconds = time + (lasts if lasts < LONGEST_STILL else period)
            yield time, frame

    def _frames(self, container, stream) -> Iterator[av.VideoFrame]:
        packets = packets_of(container, stream)
        while True:
            try:
                packet = next(packets, None)
            except (FFmpegError, MemoryError) as error:  # The container itself is broken from here on.
                refuse_if_passing(error, self.path)
                self._damaged += 1
                return
            if packet is None:
                return
            try:
                for frame in packet.decode():
                    self._flawed += frame.is_corrupt
                    yield frame
            except (FFmpegError, MemoryError) as error:
                refuse_if_passing(error, self.path)
                self._damaged += 1

    def _convert(self, frame: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        if self._size is None:  # All frames get the size of the first: some streams change theirs midway.
            width, height = frame.width * self._pixel_width, frame.height
            self._size = kept_size(width, height)
            self._quarter_turns = round(frame.rotation / 90)
            shown = max(1, round(width)), height
            self.shown_size = shown[::-1] if self._quarter_turns % 2 else shown
        width, height = self._size
        try:
            image = self._reformatter.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
        except (FFmpegError, ValueError, MemoryError) as error:
            refuse_if_passing(error, self.path)
            raise VideoError(
                self.path, f"has pictures in a form that cannot be converted ({error})", "convert it to H.264 in an mp4"
            ) from None
        return np.ascontiguousarray(np.rot90(image, self._quarter_turns))  # Telephones film upright on their side.

    def _what_is_missing(self) -> str | None:
        told = []
        if self.declared is not None and self.seconds < self.declared - MISSING_END:
            told.append(f"its pictures end at {self.seconds:.1f} s of {self.declared:.1f} s declared")
        told += [f"{self._damaged} damaged packets were passed over"] * bool(self._damaged)
        told += [f"{self._flawed} pictures are damaged in part"] * bool(self._flawed)
        return "; ".join(told) or None


def _rate(stream: av.VideoStream) -> float:
    """Pictures a second, on average."""
    rates = (float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
    return next((rate for rate in rates if 1 / LONGEST_STILL < rate <= FASTEST), 25.0)


def _pixel_width(stream: av.VideoStream) -> float:
    """How wide a pixel is for its height."""
    width = float(stream.sample_aspect_ratio or 1)
    return width if 1 / WIDEST_PIXEL <= width <= WIDEST_PIXEL else 1.0


def kept_size(width: float, height: int) -> tuple[int, int]:
    """Width and height, reduced where needed to fit the two limits; the shape is kept."""
    scale = min(1.0, SHORTER_SIDE / min(width, height), LONGER_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
