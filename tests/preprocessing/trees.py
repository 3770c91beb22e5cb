"""Tiny trees of the datasets: annotations as given, media made here under the names that they ask for."""

import json
import wave
from pathlib import Path

import cv2
import numpy as np
from clips import make_clip, walking_square


def write_lines(path: Path, rows: list) -> Path:
    """JSON lines; what is bytes stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n")
    return path


def write_images(folder: Path, seconds: float, name: str = "{:05d}.jpg") -> Path:
    """Numbered images, three a second."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(walking_square(seconds, fps=3), 1):
        cv2.imwrite(str(folder / name.format(number)), frame)
    return folder


def write_wav(path: Path, seconds: float, rate: int = 22_050) -> Path:
    """A tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate) * 10_000
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(tone.astype("<i2").tobytes())
    return path


def tvqa_row(qid: int, clip: str = "s01e01_seg01_clip_00", ts: str = "2-6", **changes) -> dict:
    row = {
        "qid": qid,
        "q": f"What is asked in {qid}?",
        **{f"a{i}": f"answer {i}" for i in range(5)},
        "answer_idx": qid % 5,
        "ts": ts,
        "vid_name": clip,
        "show_name": "The Big Bang Theory",
    }
    return row | changes


def tvqa_media(root: Path, clip: str, show: str, seconds: float = 20.0, inside: str = "") -> None:
    write_images(root / inside / f"frames_hq/{show}_frames/{clip}", seconds)
    sound = "bbt_new" if show == "bbt" else show
    write_wav(root / inside / f"audios/{sound}/{show}_audios/{clip}.wav", seconds)
    (root / "tvqa_subtitles").mkdir(exist_ok=True)
    text = "1\n00:00:03,000 --> 00:00:05,000\n(Sheldon:)Caf\u00e9, <i>please</i>.\n\n2\n00:00:09,000 --> 00:00:10,000\nNo.\n"
    (root / f"tvqa_subtitles/{clip}.srt").write_bytes(text.encode("latin-1"))


def siq2_row(clip: str, number: int = 0, **changes) -> dict:
    answers = {f"a{i}": f"answer {i}" for i in range(4)}
    row = {"qid": f"{clip}_q{number}_0", "q": "Why?", "vid_name": clip, "ts": "0.00-60.060000", "answer_idx": 1}
    return row | answers | {"ans_corr": "answer 1"} | changes


def siq2_media(root: Path, clip: str, seconds: float = 8.0) -> None:
    make_clip(root / f"video/{clip}.mp4", walking_square(seconds), tone=seconds)
    (root / "transcript").mkdir(exist_ok=True)
    (root / f"transcript/{clip}.vtt").write_text("WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nHi.\n")
