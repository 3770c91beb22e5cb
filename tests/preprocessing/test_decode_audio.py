import av
import numpy as np
import pytest
from clips import make_clip, nobody

from preprocessing.decode_audio import decode_audio

RATE = 22_620


def test_no_sound_is_none(tmp_path):
    assert decode_audio(make_clip(tmp_path / "mute.mp4", nobody(1)), RATE, 1.0) == (None, None)


def test_sound_longer_than_the_pictures_is_cut(tmp_path):
    samples, problem = decode_audio(make_clip(tmp_path / "long.mp4", nobody(1), tone=3), RATE, 1.0)
    assert len(samples) == RATE and samples.dtype == np.float32 and problem is None
    assert np.abs(samples[RATE // 2 :]).max() == pytest.approx(0.5, abs=0.05)


def test_sound_shorter_than_the_pictures_ends_where_it_ends(tmp_path):
    samples, _ = decode_audio(make_clip(tmp_path / "short.mkv", nobody(4), tone=1), RATE, 4.0)
    assert len(samples) == pytest.approx(RATE, abs=RATE * 0.1)


@pytest.mark.parametrize("late", [0.5, -0.5])
def test_sound_stands_where_its_timestamps_say(tmp_path, late):
    """One click, one second into the sound, which begins earlier or later than the pictures."""
    path = tmp_path / "shifted.mkv"
    with av.open(str(path), "w") as container:
        video, audio = container.add_stream("libx264", rate=10), container.add_stream("flac", rate=8000)
        video.height = video.width = 32
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts = i + 10
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = np.zeros((1, 16_000), np.int16)
        samples[0, 8000:8010] = 30_000
        for i in range(0, 16_000, 4000):
            frame = av.AudioFrame.from_ndarray(samples[:, i : i + 4000], format="s16", layout="mono")
            frame.rate, frame.pts = 8000, i + round((1 + late) * 8000)
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
    samples, _ = decode_audio(path, RATE, 3.0)
    assert np.abs(samples).argmax() / RATE == pytest.approx(1 + late, abs=0.005)
