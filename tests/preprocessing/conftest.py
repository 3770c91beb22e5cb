"""A folder of good and bad files, and a CLIP model that knows nothing."""

import importlib.util
import json
from pathlib import Path

import pytest
from clips import make_clip, nobody, walking_square


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Good clips of every kind, bad files, and questions."""
    folder = tmp_path_factory.mktemp("a folder")
    make_clip(folder / "walks.mp4", walking_square(40), tone=30)
    make_clip(folder / "-b-8x.mkv", walking_square(6), tone=9)
    make_clip(folder / "no body, no sound é.mp4", nobody(5))
    (folder / "below").mkdir()
    make_clip(folder / "below" / "short.webm", walking_square(1.2), tone=1, audio_rate=48_000, codec="libvpx-vp9")
    (folder / "below" / "short.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\n<i>two</i>\nlines\n")
    (folder / "-b-8x.srt").write_bytes(b"\x00\xff\x13garbage\xfe" * 40)
    whole = (folder / "walks.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    (folder / "empty.avi").touch()
    (folder / "text.mp4").write_text("I am not a video.\n" * 100)
    (folder / "notes.txt").write_text("not looked at")
    questions = [
        {"video": "walks", "question": "Who?", "answers": ["a", "b"], "label": 1, "start": 34, "end": 38, "id": "late"},
        {"video": "below/short.webm", "question": "When?", "answers": ["a", "b"]},
        {"video": "elsewhere.mp4", "question": "Where?", "answers": ["a", "b"]},
        {"video": "walks", "question": "After?", "answers": ["a", "b"], "start": 100, "end": 110},
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return folder


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory) -> Path:
    """The folder of a tiny CLIP with random weights."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "random_clip.py"
    spec = importlib.util.spec_from_file_location("random_clip", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.save_random_clip(tmp_path_factory.mktemp("models") / "random-clip")
