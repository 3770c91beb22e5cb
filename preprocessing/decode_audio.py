"""A video file, or a sound file of its own, in, the sound that belongs to the pictures out: mono float32."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float32

from preprocessing.decode_video import open_video, packets_of, refuse_if_passing, video_stream
from preprocessing.problems import VideoError, may_pass

JITTER = 0.05  # seconds: smaller steps between timestamps are rounding, larger ones are gaps
BLOCK = 1 << 18  # samples looked at together, 1 MB
WIDTH = np.dtype(np.float32).itemsize


class Sound(contextlib.AbstractContextManager):
    """Mono samples in a temporary file that has no name, so that memory does not grow with their number.

    What was never written is silence. Close it, or use it in a `with` statement, to give the room back.
    """

    def __init__(self, rate: int):
        self.rate = rate
        self.count = 0  # samples, up to the end of the last that was written
        self._peak: float | None = None
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (`close` closes it)

    def write(self, first: int, samples: Float32[np.ndarray, " n"]) -> None:
        """Puts samples at number `first` and after it, in place of what was there. Raises OSError on a full disk."""
        data = np.ascontiguousarray(samples, np.float32).view(np.uint8)
        at = first * WIDTH
        while len(data):  # A disk that is nearly full takes a part.
            written = os.pwrite(self._file.fileno(), data, at)
            data, at = data[written:], at + written
        self.count = max(self.count, first + len(samples))
        self._peak = None

    def piece(self, first: int, length: int) -> Float32[np.ndarray, " length"]:
        """`length` samples from number `first`; zeros where there are none, before the first and after the last."""
        samples = np.zeros(length, np.float32)
        before = min(max(-first, 0), length)
        data = os.pread(self._file.fileno(), (length - before) * WIDTH, max(first, 0) * WIDTH)
        samples[before : before + len(data) // WIDTH] = np.frombuffer(data, np.float32)
        return samples

    @property
    def peak(self) -> float:
        """The largest absolute value, 0 where there is only silence."""
        if self._peak is None:
            starts = range(0, self.count, BLOCK)
            self._peak = max((float(np.abs(self.piece(start, BLOCK)).max()) for start in starts), default=0.0)
        return self._peak

    def close(self) -> None:
        """Removes the samples."""
        self._file.close()

    def __exit__(self, *_) -> None:
        self.close()


def decode_audio(
    path: Path, rate: int, seconds: float, beside_pictures: bool = False
) -> tuple[Sound | None, str | None]:
    """Sound from the start of the video stream to the end of the sound, at most `seconds`; and what was damaged.

    Sound that begins later than the pictures is preceded by silence, sound that begins earlier or ends later is cut,
    gaps become silence. None where the file has no sound (or none while there are pictures). A file that lies
    `beside_pictures` holds no video; it begins when they do. The caller closes the sound.

    Raises VideoError, transient where reading the file or writing the samples failed for a reason that may pass.
    """
    with contextlib.ExitStack() as on_error:
        with open_video(path) as container:
            video = None if beside_pictures else video_stream(container, path)
            stream = container.streams.best("audio", related=video)
            if stream is None or stream.codec_context is None:
                return None, "holds no sound" if beside_pictures else None
            stream.codec_context.thread_count = 1
            clock = video or stream
            first = float((clock.start_time or 0) * clock.time_base)
            try:
                sound = on_error.enter_context(Sound(rate))
                problem = _place(container, stream, first, round(seconds * rate), sound, path)
            except OSError as error:
                raise VideoError(
                    path,
                    f"has sound that cannot be kept in {tempfile.gettempdir()} ({error.strerror})",
                    "make room there, or set TMPDIR to a folder that has it",
                    "audio",
                    transient=may_pass(error),
                ) from None
        if not sound.count:
            return None, problem
        on_error.pop_all()
    return sound, problem


def _place(container, stream, first: float, most: int, sound: Sound, path: Path) -> str | None:
    """Writes every piece of sound where its timestamp says, `most` samples at most; returns what went wrong."""
    damaged, following = 0, None
    pieces = _resampled(container, stream, sound.rate)
    while True:
        try:
            piece = next(pieces, None)
        except (FFmpegError, ValueError, MemoryError) as error:  # The container ends, or nothing can be resampled.
            refuse_if_passing(error, path)
            return f"its sound could not be read further than {sound.count / sound.rate:.1f} s ({error})"
        if piece is None:
            break
        if isinstance(piece, FFmpegError):
            refuse_if_passing(piece, path)
            damaged += 1
            continue
        start = following
        if piece.time is not None:
            stamped = round((piece.time - first) * sound.rate)
            start = stamped if following is None or abs(stamped - following) > JITTER * sound.rate else following
        start = start or 0
        values = piece.to_ndarray()[0]
        following = start + len(values)
        if start >= most:
            break
        inside = values[max(0, -start) : most - start]
        if len(inside):  # A damaged packet may hold what is no number.
            sound.write(max(0, start), np.nan_to_num(inside, nan=0.0, posinf=0.0, neginf=0.0))
    return f"{damaged} damaged pieces of sound were left silent" if damaged else None


def _resampled(container, stream, rate: int) -> Iterator[av.AudioFrame | FFmpegError]:
    """Mono float frames at `rate`; an error for each damaged packet."""
    resampler, heard = None, None
    for packet in packets_of(container, stream):
        try:
            frames = packet.decode()
        except FFmpegError as error:
            yield error
            continue
        for frame in frames:
            form = frame.format.name, frame.layout.name, frame.sample_rate
            if form != heard:  # Broadcasts change theirs midway; a resampler takes one form only.
                yield from resampler.resample(None) if resampler else ()
                resampler, heard = av.AudioResampler(format="flt", layout="mono", rate=rate), form
            yield from resampler.resample(frame)
    yield from resampler.resample(None) if resampler else ()
