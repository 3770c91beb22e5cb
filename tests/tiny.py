"""Tiny real records, a vocabulary and a configuration: what tests of whole stages start from."""

from pathlib import Path

import cv2
import jax
import numpy as np
import tensorflow_datasets as tfds

from mmdiff.data import records
from mmdiff.data.loader import training_batches
from mmdiff.data.tokenizer import Tokenizer, train_tokenizer
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig
from mmdiff.training.pretrain import example_maker

SEGMENTS = 2
WORDS = "hello there a cat and a dog sit what is it 0 1 2 3 4 5 6 7 8 9 to answer:"


def record(
    number: int, segments: int = SEGMENTS, boxes: bool = True, audio: bool = True, similarity: bool = False
) -> records.Record:
    """A clip whose frames are smooth noise, with one person who walks to the right.

    With `similarity`, what CLIP would say: 0.3 where the person is, 0.1 elsewhere, and noise below 0.01.
    """
    rng = np.random.default_rng(number)
    frames = []
    for _ in range(segments):
        pixels = cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (128, 72), interpolation=cv2.INTER_CUBIC)
        frames.append(cv2.imencode(".jpg", pixels)[1].tobytes())
    places = records.empty_boxes()
    if boxes:
        body = np.array([[0.2, 0.1 + 0.2 * i, 0.9, 0.5 + 0.2 * i] for i in range(segments)], np.float32)
        face = np.concatenate([body[:, :2], body[:, :2] + 0.2], axis=1)
        places = records.Boxes(
            frame=np.tile(np.arange(segments, dtype=np.int32), 2),
            box=np.concatenate([body, face]),
            label=["person"] * 2 * segments,
            part=["body"] * segments + ["face"] * segments,
            score=np.ones(2 * segments, np.float32),
            track=np.full(2 * segments, 3, np.int32),
            source=["derived"] * segments + ["detected"] * segments,
        )
    cells = None
    if similarity:
        cells = 0.1 + 0.01 * np.random.default_rng(number).random((segments, *records.SIMILARITY_GRID), np.float32)
        for frame, box, part in zip(places.frame, places.box, places.part, strict=True):
            y0, x0, y1, x1 = (box * np.tile(records.SIMILARITY_GRID, 2)).round().astype(int)
            cells[frame, y0:y1, x0:x1] += 0.2 * (part == "body")
    start = np.arange(segments, dtype=np.float32) * np.float32(records.SECONDS_PER_SEGMENT)
    end = start + np.float32(records.SECONDS_PER_SEGMENT)
    question = records.Question(
        f"q{number}", "what is it", ["a cat", "a dog", "hello"], number % 3, 0.0, float(end[-1]), 0
    )
    return records.Record(
        id=f"clip{number}",
        video=f"clip{number}.mp4",
        frames=frames,
        frame_times=(start + end) / 2,
        boxes=places,
        segments=records.Segments(
            start=start,
            end=end,
            frame=np.arange(segments, dtype=np.int32),
            has_audio=np.full(segments, audio),
            mel=rng.integers(0, 200, (segments, 3, 60, 64)).astype(np.uint8),
            subtitle=["hello there"] + ["a cat"] * (segments - 1),
        ),
        mel_scale=29.0,
        windows=np.array([[0, segments]], np.int32),
        questions=[question],
        similarity=cells,
    )


class TinyFolder(tfds.core.GeneratorBasedBuilder):
    """The splits given, as the real builder writes them."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, splits: dict[str, list[records.Record]], **options):
        self._records = splits
        super().__init__(**options)

    def _info(self):
        labels: dict[str, dict[str, int]] = {}
        kept = [record for split in self._records.values() for record in split]
        for one in kept:
            records.count_labels(labels, one.boxes)
        scored = any(one.similarity is not None for one in kept)
        about = tfds.core.MetadataDict(
            labels=labels, similarity={"model": "tiny", "anchors": ["person"]} if scored else None
        )
        return tfds.core.DatasetInfo(builder=self, features=records.features(), metadata=about)

    def _split_generators(self, dl_manager):
        return {name: ((r.id, records.encode(r)) for r in kept) for name, kept in self._records.items()}

    def _generate_examples(self):
        raise NotImplementedError("the splits come ready")


def write_dataset(folder: Path, train: list[records.Record], validation: list[records.Record]) -> Path:
    """A folder such as `mmdiff preprocess` leaves, with a vocabulary beside it."""
    tfds.disable_progress_bar()
    splits = {"train": train} | ({"validation": validation} if validation else {})
    TinyFolder(splits, data_dir=str(folder), file_format="array_record").download_and_prepare()
    train_tokenizer([WORDS] * 3, 300, folder / "tokenizer.json")
    return folder


def first_batch(made: PretrainConfig, size: int):
    """Sizes and parameters of the model of a configuration, and its first training batch."""
    tokenizer = Tokenizer(made.data.tokenizer)
    sizes, params = runs.build_model(made.model, tokenizer, jax.random.key(0))
    make = example_maker(made.data, made.masking, lambda label, part: 1.0, sizes, tokenizer)
    batches = training_batches(made.data.records, make, size, 0, 1, 0, 1)
    batch = next(batches)
    batches.close()
    return sizes, params, batch


def config(folder: Path, **train) -> PretrainConfig:
    """A run that takes seconds: one layer an encoder, 64 wide.

    Runs that change no size, rate or number of steps are one program, which the compilation cache keeps for all tests.
    """
    made = PretrainConfig()
    made.data.records, made.data.tokenizer = str(folder), str(folder / "tokenizer.json")
    made.data.segments, made.data.text_length, made.data.threads = SEGMENTS, 48, 2
    made.model.rows, made.model.columns, made.model.dtype = 4, 6, "float32"
    made.model.hidden_size = 64
    made.model.vision_layers = made.model.audio_layers = made.model.joint_layers = made.model.span_layers = 1
    made.optimizer.learning_rate, made.optimizer.warmup_steps = 1e-3, 2
    made.train.batch_size, made.train.steps, made.train.patience = 8, 24, 0
    for name, value in train.items():
        assert hasattr(made.train, name), name
        setattr(made.train, name, value)
    return made
