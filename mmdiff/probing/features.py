"""A frozen model and records in, the features of every candidate answer out: computed once and kept on disk.

Nothing is encoded twice: a frame or a piece of audio that several windows of a record look at is encoded once, and so
is a candidate that several questions offer. Records are worked off in shards, each written whole: a pass that was
killed goes on at the first shard that is missing.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import resource
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from mmdiff.data.question_examples import no_questions
from mmdiff.data.records import Record, decode, read_split
from mmdiff.data.records import digest as records_digest
from mmdiff.data.tokenizer import Tokenizer
from mmdiff.data.video_examples import DataConfig
from mmdiff.models.reserve import ReserveConfig
from mmdiff.objectives.question_answering import QuestionConfig
from mmdiff.probing.distinct import COUNTS, Distinct
from mmdiff.probing.encoder import PLACES_PER_BANK, Encoder
from mmdiff.training.hosts import refuse_several
from mmdiff.whole_files import whole

RECORDS_PER_SHARD = 64

log_line = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class QuestionFeatures:
    """`q` questions with `a` slots for answers, and the features of their `n` distinct candidates."""

    rows: np.ndarray  # float16 [n, 2, d], from audio and from text
    candidates: np.ndarray  # int32 [q, a], the row of each answer; -1 where no answer is offered
    label: np.ndarray  # int32 [q]
    id: np.ndarray  # str [q]
    group: np.ndarray  # str [q], the video each question is about

    def __len__(self) -> int:
        return len(self.label)

    def chosen(self, questions: np.ndarray) -> "QuestionFeatures":
        """Some of the questions; their rows stay where they are."""
        return dataclasses.replace(
            self, **{name: getattr(self, name)[questions] for name in ("candidates", "label", "id", "group")}
        )


class Shard(NamedTuple):
    """The features of some records, and what they took."""

    features: QuestionFeatures
    counts: dict[str, int]


VERSION = 1  # Raise it when the same checkpoint, records and settings give other features than before.


def fingerprint(checkpoint: Path, records: str, tokenizer: Path, *settings) -> str:
    """A name for what is computed from these, that changes with any of them: files by content, settings as JSON."""
    digest = hashlib.sha256()
    with checkpoint.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    digest.update(tokenizer.read_bytes())
    digest.update(records_digest(records).encode())
    digest.update(json.dumps([VERSION, settings]).encode())
    return digest.hexdigest()[:16]


def what_features_depend_on(data: DataConfig, questions: QuestionConfig, model: ReserveConfig) -> tuple:
    """The settings that enter the fingerprint of features."""
    return (
        data.segments,
        data.text_length,
        data.clip_question_span,
        questions.attend_to_padding,
        dataclasses.astuple(dataclasses.replace(model, remat=())),
    )


def make_shard(records: Iterable[Record], encoder: Encoder, gather: Callable[[], Distinct], width: int) -> Shard:
    """The features of the labelled questions of some records, in order."""
    parts, counts = [], dict.fromkeys(COUNTS, 0)

    def work_off(pending: Distinct) -> None:
        for name in COUNTS:
            counts[name] += pending.counts[name]
        if pending.rows:
            frames, segments = encoder.frames(pending.frames()), encoder.segments(pending.segments)
            parts.append((encoder.candidates(frames, segments, pending.rows), pending.asked))

    pending = gather()
    for record in records:
        pending.add(record)
        if len(pending) > PLACES_PER_BANK // 2:  # another record might not fit into the same bank
            work_off(pending)
            pending = gather()
    work_off(pending)
    asked = [row for _, part in parts for row in part]
    starts = np.cumsum([0, *(len(found) for found, _ in parts)])
    first = [int(start) for start, (_, part) in zip(starts, parts, strict=False) for _ in part]
    candidates = np.full((len(asked), max((len(places) for places, *_ in asked), default=0)), -1, np.int32)
    for i, (places, *_) in enumerate(asked):
        candidates[i, : len(places)] = np.array(places) + first[i]
    return Shard(
        QuestionFeatures(
            rows=np.concatenate([found for found, _ in parts]) if parts else np.zeros((0, 2, width), np.float16),
            candidates=candidates,
            label=np.array([label for _, label, _, _ in asked], np.int32),
            id=np.array([name for _, _, name, _ in asked], str),
            group=np.array([record for *_, record in asked], str),
        ),
        counts,
    )


def write_shard(path: Path, shard: Shard) -> None:
    """One npz file, whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **dataclasses.asdict(shard.features), **{name: np.int64(n) for name, n in shard.counts.items()})


def read_shard(path: Path, width: int) -> Shard | None:
    """A shard as it was written; None where there is none, or where what is there is not one."""
    if not path.exists():
        return None
    fields = [field.name for field in dataclasses.fields(QuestionFeatures)]
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = QuestionFeatures(**{name: stored[name] for name in fields})
            shard = Shard(found, {name: int(stored[name]) for name in COUNTS})
        offered = found.candidates[found.candidates >= 0]
        sound = (
            found.rows.dtype == np.float16
            and found.rows.shape[1:] == (2, width)
            and found.candidates.ndim == 2
            and len({len(getattr(found, name)) for name in fields if name != "rows"}) == 1
            and (offered < len(found.rows)).all()
        )
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        sound = False
    if not sound:
        log_line.warning("%s is no whole shard of features: it is computed again", path)
        return None
    return shard


def joined(shards: list[Shard]) -> QuestionFeatures:
    """The features of all shards as one."""
    slots = max(shard.features.candidates.shape[1] for shard in shards)
    candidates, first = [], 0
    for shard in shards:
        local = shard.features.candidates
        wide = np.full((len(local), slots), -1, np.int32)
        wide[:, : local.shape[1]] = np.where(local >= 0, local + first, -1)
        candidates.append(wide)
        first += len(shard.features.rows)
    rest = {
        name: np.concatenate([getattr(shard.features, name) for shard in shards])
        for name in ("rows", "label", "id", "group")
    }
    return QuestionFeatures(candidates=np.concatenate(candidates), **rest)


def compute_features(
    folder: Path,
    split: str,
    encoder: Encoder,
    data: DataConfig,
    questions: QuestionConfig,
    tokenizer: Tokenizer,
    progress_bar: bool = True,
) -> tuple[QuestionFeatures, dict]:
    """The features of a split's labelled questions, and what the pass over it took.

    `folder` belongs to these features alone (it is named by their fingerprint); shards that lie there are not
    computed again. Raises RecordError where the split has no labelled question, HostsError on several hosts, which would
    write the same shards.
    """
    refuse_several("probing")
    source = read_split(data.records, split)
    width = encoder.model.config.hidden_size
    starts = range(0, len(source), RECORDS_PER_SHARD)
    shards, computed, seconds = [], 0, 0.0
    with (
        ThreadPoolExecutor(data.threads) as decoders,
        tqdm(total=len(source), desc=f"features of {split}", unit="record", disable=not progress_bar) as bar,
    ):
        for number, start in enumerate(starts):
            path = folder / f"{split}-{number:05d}-of-{len(starts):05d}.npz"
            indices = range(start, min(start + RECORDS_PER_SHARD, len(source)))
            shard = read_shard(path, width)
            if shard is None:
                begun = time.perf_counter()
                records = (decode(source[index]) for index in indices)
                gather = functools.partial(Distinct, data, questions, encoder.model.config, tokenizer, decoders)
                shard = make_shard(records, encoder, gather, width)
                write_shard(path, shard)
                seconds += time.perf_counter() - begun
                computed += len(shard.features)
            shards.append(shard)
            bar.update(len(indices))
    features = joined(shards)
    if not len(features):
        raise no_questions(data.records, split)
    log_line.info("features of %s: %d of %d questions from %s", split, len(features) - computed, len(features), folder)
    took = {
        "questions": len(features),
        "candidates": int((features.candidates >= 0).sum()),
        "distinct_candidates": len(features.rows),
        **{name: sum(shard.counts[name] for shard in shards) for name in COUNTS},
        "computed_questions": computed,  # the others were there already
        "seconds": seconds,
        "questions_per_second": computed / seconds if computed else None,
    }
    return features, took


def peak_memory() -> dict:
    """The most bytes this process ever held, and each of its devices that keeps count."""
    # Kilobytes on Linux, bytes on a Mac.
    unit = 1 if sys.platform == "darwin" else 1024
    on_devices = [device.memory_stats() or {} for device in jax.local_devices()]
    return {
        "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "devices": [stats["peak_bytes_in_use"] for stats in on_devices if "peak_bytes_in_use" in stats],
    }
