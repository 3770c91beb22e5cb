"""A continued tiny model, and records whose windows and questions repeat what they look at."""

from pathlib import Path

import jax
import numpy as np
import tiny

from mmdiff.data.records import SECONDS_PER_SEGMENT, Question, Record
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.models.pretrained import save_safetensors
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig
from mmdiff.training.pretrain import pretrain


def repeating(number: int) -> Record:
    """Three frames under two windows of two segments, listed window after window: the middle one is in both.

    Six two-answer questions about the first window offer four distinct answers, as Social-IQ's pairs do; one question
    about the second has three answers, and one more is not labelled.
    """
    record = tiny.record(number, segments=3)
    parts = record.segments
    twice = np.array([0, 1, 1, 2])
    for name in ("start", "end", "frame", "has_audio", "mel"):
        setattr(parts, name, getattr(parts, name)[twice])
    parts.subtitle = [parts.subtitle[i] for i in twice]
    record.windows = np.array([[0, 2], [2, 2]], np.int32)
    end = 2 * SECONDS_PER_SEGMENT
    answers = ["a cat", "a dog", "hello", "sit"]
    pairs = [(a, b) for i, a in enumerate(answers) for b in answers[i + 1 :]]
    record.questions = [
        Question(f"p{number}-{i}", "what is it", list(pair), (number + i) % 2, 0.0, end, 0)
        for i, pair in enumerate(pairs)
    ]
    record.questions.append(Question(f"t{number}", "what is it", answers[:3], number % 3, 0.0, end, 1))
    record.questions.append(Question(f"u{number}", "what is it", answers[:2], -1, 0.0, end, 1))
    return record


def continued(folder: Path, train: list[Record], validation: list[Record]) -> Path:
    """The folder of a run of one step on these records."""
    records = tiny.write_dataset(folder / "records", train, validation)
    config = tiny.config(records, steps=1)
    config.optimizer.warmup_steps = 0
    return pretrain(config, folder / "run", progress_bar=False)


def untrained(folder: Path, train: list[Record], validation: list[Record]) -> tuple[Path, PretrainConfig]:
    """A checkpoint file of random weights, and the data and sizes that go with it."""
    config = tiny.config(tiny.write_dataset(folder / "records", train, validation))
    _, params = runs.build_model(config.model, Tokenizer(config.data.tokenizer), jax.random.key(0))
    save_safetensors(folder / "model.safetensors", params)
    return folder / "model.safetensors", config
