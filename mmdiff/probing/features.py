"""A frozen model and records in, the features of every candidate answer out: computed once and kept on disk."""

import dataclasses
import functools
import hashlib
import json
import logging
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from mmdiff.data.loader import stack
from mmdiff.data.records import RecordError, decode, read_split
from mmdiff.data.records import digest as records_digest
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import (
    NO_BOXES,
    DataConfig,
    audio_sequence,
    candidate_tokens,
    text_sequence,
    video_example,
)
from mmdiff.models.reserve import MerlotReserve, ReserveConfig
from mmdiff.objectives.masked_video import to_clips
from mmdiff.objectives.question_answering import Candidates, Windows, candidate_features, encode_windows
from mmdiff.whole_files import whole

WINDOWS_AT_ONCE = 4
CANDIDATES_AT_ONCE = 32

log_line = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class QuestionFeatures:
    """`q` questions with `a` slots for answers, from audio and from text."""

    features: np.ndarray  # float16 [q, a, 2, d]
    offered: np.ndarray  # bool [q, a]
    label: np.ndarray  # int [q]
    id: np.ndarray  # str [q]


def fingerprint(checkpoint: Path, records: str, tokenizer: Path, data: DataConfig, model: ReserveConfig) -> str:
    """A name for features that changes with anything they depend on."""
    digest = hashlib.sha256()
    with checkpoint.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    digest.update(tokenizer.read_bytes())
    digest.update(records_digest(records).encode())
    digest.update(json.dumps([data.segments, data.text_length, dataclasses.astuple(model)]).encode())
    return digest.hexdigest()[:16]


def compute_features(
    folder: Path,
    name: str,
    split: str,
    model: MerlotReserve,
    params: dict,
    data: DataConfig,
    tokenizer: Tokenizer,
    progress_bar: bool = True,
) -> QuestionFeatures:
    """The features of a split's labelled questions, from `folder/name-split.npz` if they are there.

    Frames and audio of a window are encoded once and shared by its candidates. Raises RecordError where the split
    has no labelled question.
    """
    path = folder / f"{name}-{split}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            log_line.info("features of %s from %s", split, path)
            return QuestionFeatures(**stored)
    source = read_split(data.records, split)
    frame = (model.config.image_grid, model.config.patch_size)
    found, labels, ids = [], [], []
    pending: list[tuple] = []  # (example, [(question, candidate rows)])

    def flush():
        while len(pending) < WINDOWS_AT_ONCE:
            pending.append((jax.tree.map(np.zeros_like, pending[0][0]), []))
        batch = stack([example for example, _ in pending])
        windows = _encode(model, params, batch)
        rows = [row._replace(window=np.int32(w)) for w, (_, asked) in enumerate(pending) for _, q in asked for row in q]
        vectors = _ask_all(model, params, windows, rows)
        for _, asked in pending:
            for question, candidates in asked:
                found.append(np.asarray(vectors[: len(candidates)], np.float16))
                vectors = vectors[len(candidates) :]
                labels.append(question.label)
                ids.append(question.id)
        pending.clear()

    for index in tqdm(range(len(source)), desc=f"features of {split}", unit="record", disable=not progress_bar):
        record = decode(source[index])
        for window in range(len(record.windows)):
            questions = [q for q in record.questions if q.window == window and q.label >= 0]
            if not questions:
                continue
            first, count = (int(x) for x in record.windows[window])
            subtitles = record.segments.subtitle[first : first + count]
            has_audio = record.segments.has_audio[first : first + count]
            asked = []
            for question in questions:
                prefixes = [candidate_tokens(record, question, answer, tokenizer) for answer in question.answers]
                rows = [
                    Candidates(
                        np.int32(0),
                        *text_sequence(prefix, subtitles, data.text_length, tokenizer),
                        *audio_sequence(prefix, has_audio, data.text_length),
                    )
                    for prefix in prefixes
                ]
                asked.append((question, rows))
            pending.append((video_example(record, window, data, *frame, NO_BOXES, tokenizer, None), asked))
            if len(pending) == WINDOWS_AT_ONCE:
                flush()
    if pending:
        flush()
    if not found:
        raise RecordError(
            f"{data.records} has no question with a known answer in its {split} split: put a questions.jsonl beside "
            "the videos and run `mmdiff preprocess` again"
        )
    slots = max(len(rows) for rows in found)
    features = np.zeros((len(found), slots, *found[0].shape[1:]), np.float16)
    offered = np.zeros((len(found), slots), bool)
    for i, rows in enumerate(found):
        features[i, : len(rows)], offered[i, : len(rows)] = rows, True
    result = QuestionFeatures(features, offered, np.array(labels, np.int32), np.array(ids))
    folder.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **dataclasses.asdict(result))
    return result


@functools.partial(jax.jit, static_argnums=0)
def _encode(model: MerlotReserve, params: dict, batch) -> Windows:
    clips = to_clips(batch, model.config.patch_size, attend_to_padding=False)
    return encode_windows(model, params, clips.patches, clips.mels, clips.attended)


_ask = functools.partial(jax.jit, static_argnums=0)(candidate_features)


def _ask_all(model: MerlotReserve, params: dict, windows: Windows, rows: list[Candidates]) -> np.ndarray:
    """Features of all rows, a fixed number at once so that one program serves them all."""
    out = []
    for start in range(0, len(rows), CANDIDATES_AT_ONCE):
        part = rows[start : start + CANDIDATES_AT_ONCE]
        filled = part + [part[-1]] * (CANDIDATES_AT_ONCE - len(part))
        out.append(np.asarray(_ask(model, params, windows, stack(filled)).astype("float32"))[: len(part)])
    return np.concatenate(out)
