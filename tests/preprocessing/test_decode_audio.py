import errno
import os

import av
import numpy as np
import pytest
from clips import make_clip, nobody

from preprocessing.decode_audio import Sound, decode_audio
from preprocessing.problems import VideoError

RATE = 22_620


def test_no_sound_is_none(tmp_path):
    assert decode_audio(make_clip(tmp_path / "mute.mp4", nobody(1)), RATE, 1.0) == (None, None)


def test_sound_longer_than_the_pictures_is_cut(tmp_path):
    sound, problem = decode_audio(make_clip(tmp_path / "long.mp4", nobody(1), tone=3), RATE, 1.0)
    assert sound.count == RATE and problem is None
    assert np.abs(sound.piece(RATE // 2, RATE)).max() == pytest.approx(0.5, abs=0.05)


def test_sound_shorter_than_the_pictures_ends_where_it_ends(tmp_path):
    sound, _ = decode_audio(make_clip(tmp_path / "short.mkv", nobody(4), tone=1), RATE, 4.0)
    assert sound.count == pytest.approx(RATE, abs=RATE * 0.1)


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
    sound, _ = decode_audio(path, RATE, 3.0)
    assert np.abs(sound.piece(0, 3 * RATE)).argmax() / RATE == pytest.approx(1 + late, abs=0.005)


def test_sound_is_kept_in_a_file_and_read_in_pieces():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    with Sound(RATE) as sound:
        assert (sound.count, sound.peak) == (0, 0.0)
        sound.write(500, values)
        sound.write(700, values[:3])
        values[200:203] = values[:3]
        whole = np.concatenate([np.zeros(500, np.float32), values])
        assert sound.count == 1500 and sound.peak == np.abs(values).max()
        for first, length in [(0, 1500), (490, 20), (-30, 40), (1490, 30), (-50, 20), (2000, 5), (7, 0)]:
            expected = [whole[i] if 0 <= i < 1500 else 0 for i in range(first, first + length)]
            np.testing.assert_array_equal(sound.piece(first, length), np.array(expected, np.float32))


def test_sound_is_the_same_for_every_second_asked_for(videos):
    """Whoever asks for less gets the beginning of the same."""
    whole, _ = decode_audio(videos / "hamilton_short.mp4", RATE, 9.0)
    begun, _ = decode_audio(videos / "hamilton_short.mp4", RATE, 2.0)
    np.testing.assert_array_equal(whole.piece(0, 2 * RATE), begun.piece(0, 2 * RATE))


def test_a_full_disk_is_said_and_may_pass(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    clip = make_clip(tmp_path / "long.mp4", nobody(1), tone=1)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(VideoError, match="cannot be kept in .*No space left") as error:
        decode_audio(clip, RATE, 1.0)
    assert error.value.transient
