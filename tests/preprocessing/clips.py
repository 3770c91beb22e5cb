"""Small clips made with PyAV."""

from pathlib import Path

import av
import numpy as np

BRIGHT_SQUARE = "bright_square:BrightSquare"  # a detector of our own: fast, and right about these clips
HEIGHT, WIDTH = 90, 160


def make_clip(path: Path, frames, fps=10, tone=None, audio_rate=44_100, codec="libx264", turned=0) -> Path:
    """Writes RGB frames, and `tone` seconds of sound where given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options={"crf": "4"})
        frames = list(frames)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        if turned:
            video.set_display_rotation(turned)
        audio = container.add_stream("libopus" if path.suffix == ".webm" else "aac", rate=audio_rate) if tone else None
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if tone:
            samples = np.sin(2 * np.pi * 440 * np.arange(int(tone * audio_rate)) / audio_rate) / 2
            sound = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            sound.rate, sound.pts = audio_rate, 0
            resampler = av.AudioResampler(audio.format.name, audio.layout, audio_rate, frame_size=audio.frame_size)
            for piece in [*resampler.resample(sound), *resampler.resample(None)]:
                container.mux(audio.encode(piece))
            container.mux(audio.encode())
    return path


def walking_square(seconds=5.0, fps=10, size=24):
    """A bright square that walks over a dark texture."""
    ground = np.random.default_rng(0).integers(20, 90, (HEIGHT, WIDTH, 1), np.uint8).repeat(3, -1)
    for i in range(round(seconds * fps)):
        frame = ground.copy()
        left = 10 + i % (WIDTH - size - 10)
        frame[30 : 30 + size, left : left + size] = 250
        yield frame


def nobody(seconds=5.0, fps=10):
    for _ in range(round(seconds * fps)):
        yield np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
