import numpy as np
import pytest

from preprocessing import spectrogram


@pytest.fixture(scope="module")
def original(golden_folder):
    with np.load(golden_folder / "spectrogram.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def samples(original):
    return (original["pcm_int16"] / original["pcm_peak_abs"]).astype(np.float32)


@pytest.mark.parametrize("segment", [0, 1])
def test_segments_equal_the_original(original, samples, segment):
    start, end = original[f"segment_{segment}_start"], original[f"segment_{segment}_end"]
    assert end - start == spectrogram.SAMPLES_PER_SEGMENT
    ours = spectrogram.log_mel(samples[start:end])
    np.testing.assert_allclose(ours, original[f"spec_{segment}"], atol=2e-6)


def test_gaps_between_spectrograms_equal_the_originals_pretraining(original, samples):
    np.testing.assert_allclose(spectrogram.log_mel(samples[:110_250], gap=2), original["pretrain_spec"], atol=2e-6)


def test_bytes_and_scale_equal_the_original(original):
    values, scale = spectrogram.quantize(np.stack([original["spec_0"], original["spec_1"]]))
    assert np.float32(scale) == original["magic_number"]
    for i in range(2):
        np.testing.assert_array_equal(values[i].reshape(180, 65), original[f"spec_{i}_uint8"])


def test_normalising_divides_by_the_peak_and_leaves_silence_silent(original, samples):
    sound = original["pcm_int16"].astype(np.float32) / 32768
    np.testing.assert_allclose(spectrogram.normalise(sound, float(np.abs(sound).max())), samples, atol=1e-7)
    assert not spectrogram.normalise(np.zeros(10, np.float32), 0.0).any()
    assert spectrogram.normalise(np.zeros(0, np.float32), 0.0).shape == (0,)


def test_silence_is_zero_but_for_the_playback_speed():
    quiet = spectrogram.log_mel(np.zeros(spectrogram.SAMPLES_PER_SEGMENT, np.float32))
    np.testing.assert_allclose(quiet, spectrogram.silence(), atol=1e-6)
    assert quiet[..., 64].min() == 1


def test_too_little_sound_is_refused():
    with pytest.raises(ValueError, match="180 are needed"):
        spectrogram.log_mel(np.zeros(50_000, np.float32))
