"""A video file, or a sound file of its own, in, the sound that belongs to the pictures out: mono float32."""

from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from jaxtyping import Float32

from preprocessing.decode_video import open_video, video_stream

JITTER = 0.05  # seconds: smaller steps between timestamps are rounding, larger ones are gaps


def decode_audio(
    path: Path, rate: int, seconds: float, beside_pictures: bool = False
) -> tuple[Float32[np.ndarray, " n"] | None, str | None]:
    """Samples from the start of the video stream to the end of the sound, at most `seconds`; and what was damaged.

    Sound that begins later than the pictures is preceded by silence, sound that begins earlier or ends later is cut,
    gaps become silence. None where the file has no sound (or none while there are pictures). A file that lies
    `beside_pictures` holds no video; it begins when they do.
    """
    with open_video(path) as container:
        video = None if beside_pictures else video_stream(container, path)
        stream = container.streams.best("audio", related=video)
        if stream is None or stream.codec_context is None:
            return None, "holds no sound" if beside_pictures else None
        stream.codec_context.thread_count = 1
        clock = video or stream
        first = float((clock.start_time or 0) * clock.time_base)
        samples = np.zeros(round(seconds * rate), np.float32)
        end, problem = _place(container, stream, rate, first, samples)
    return (samples[:end] if end else None), problem


def _place(container, stream, rate: int, first: float, samples: np.ndarray) -> tuple[int, str | None]:
    """Writes every piece of sound where its timestamp says; returns where the last one ends and what went wrong."""
    end, damaged, following = 0, 0, None
    try:
        for piece in _resampled(container, stream, rate):
            if piece is None:
                damaged += 1
                continue
            start = following
            if piece.time is not None:
                stamped = round((piece.time - first) * rate)
                start = stamped if following is None or abs(stamped - following) > JITTER * rate else following
            start = start or 0
            values = piece.to_ndarray()[0]
            following = start + len(values)
            if start >= len(samples):
                break
            inside = values[max(0, -start) : len(samples) - start]
            samples[max(0, start) : max(0, start) + len(inside)] = inside
            end = max(end, min(following, len(samples)))
    except (FFmpegError, ValueError) as error:  # The sound changes its format, or the container ends.
        return end, f"its sound could not be read further than {end / rate:.1f} s ({error})"
    return end, f"{damaged} damaged pieces of sound were left silent" if damaged else None


def _resampled(container, stream, rate: int):
    """Mono float frames at `rate`; None for each damaged packet."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            yield None
            continue
        for frame in frames:
            yield from resampler.resample(frame)
    yield from resampler.resample(None)
