"""Sound in, the log-mel spectrograms that MERLOT-Reserve was trained with out."""

import functools

import numpy as np
from jaxtyping import Float32, UInt8

from mmdiff.data.records import MEL_BINS, MEL_FRAMES, SUBSEGMENTS

SAMPLE_RATE = 22_620  # Audio is resampled to this ...
NOMINAL_RATE = 22_050  # ... and read as if it were this, so that 14/3 s give exactly 180 windows.
SAMPLES_PER_SEGMENT = 105_560  # 14/3 s
WINDOW, HOP = 1536, 588  # samples
LOWEST, HIGHEST = 20.0, 11_025.0  # Hz
SILENCE = 0.1  # added before the logarithm, so that silence is 0
PLAYBACK_SPEED = 1.0  # the model's 65th bin


@functools.cache
def _mel_filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(WINDOW // 2 + 1, MEL_BINS, LOWEST, HIGHEST, NOMINAL_RATE, norm="slaney", mel_scale="slaney")


def normalise(samples: Float32[np.ndarray, " n"], peak: float) -> Float32[np.ndarray, " n"]:
    """Samples divided by the clip's peak, as the original did with 16-bit files: less than one step is silence."""
    return samples / np.float32(max(peak, 1 / 32768))


def log_mel(samples: Float32[np.ndarray, " n"], gap: int = 0) -> Float32[np.ndarray, "3 60 65"]:
    """The three spectrograms of one segment (`gap` windows apart, 2 in the original's pretraining, else 0)."""
    from transformers.audio_utils import spectrogram

    mel = spectrogram(
        samples,
        np.hanning(WINDOW),  # Symmetric, as the original's; the textbook one is periodic.
        WINDOW,
        HOP,
        WINDOW,
        power=2.0,
        center=True,
        pad_mode="reflect",
        mel_filters=_mel_filters(),
        mel_floor=0.0,
    )
    log = (np.log(mel + SILENCE) - np.log(SILENCE)).T
    starts = [gap + (MEL_FRAMES + gap) * i for i in range(SUBSEGMENTS)]
    if len(log) < starts[-1] + MEL_FRAMES:
        raise ValueError(f"{len(samples)} samples give {len(log)} windows; {starts[-1] + MEL_FRAMES} are needed")
    return with_speed(np.stack([log[start : start + MEL_FRAMES] for start in starts]).astype(np.float32))


def silence() -> Float32[np.ndarray, "3 60 65"]:
    """The spectrograms of a segment in which there is nothing to hear."""
    return with_speed(np.zeros((SUBSEGMENTS, MEL_FRAMES, MEL_BINS), np.float32))


def with_speed(mels: Float32[np.ndarray, "*s 64"]) -> Float32[np.ndarray, "*s 65"]:
    """The playback speed appended as a last bin."""
    return np.append(mels, np.full((*mels.shape[:-1], 1), PLAYBACK_SPEED, np.float32), axis=-1)


def quantize(mels: Float32[np.ndarray, "*s 65"]) -> tuple[UInt8[np.ndarray, "*s 65"], float]:
    """Spectrograms as bytes, and the scale to divide them by (the original's `magic_number`)."""
    scale = np.float32(255 / max(np.percentile(mels, 99), 1.0))
    return np.minimum(mels * scale, 255).astype(np.uint8), float(scale)
