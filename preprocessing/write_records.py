"""Staged clips and questions in, the TFDS dataset in ArrayRecord files out.

Every dataset is a TFDS builder of its own name. Once this module is imported, `tfds.builder("tvqa", data_dir=RECORDS)`
opens what `mmdiff preprocess` wrote, and with `data=FOLDER` its `download_and_prepare` makes it.
"""

import collections
import contextlib
import dataclasses
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from mmdiff.data import records
from preprocessing import staging
from preprocessing.build import alone, open_checked, score, stage
from preprocessing.datasets import dataset_class
from preprocessing.options import Options
from preprocessing.problems import PreprocessError, Problem
from preprocessing.process_video import record_of
from preprocessing.questions import attach
from preprocessing.score_frames import scores_of, wanted
from preprocessing.staged import Staged, refuse_changed_boxes, write_boxes_of


class RecordsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Windows of the clips of one dataset, with boxes around people."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        data: str | Path | None = None,
        options: Options | None = None,
        staged: Staged | None = None,
        on_clip: Callable[[], None] = lambda: None,
        **tfds_options,
    ):
        """Opens written records; or with `data`, the dataset's folder, or with what is `staged`, can write them."""
        self._data, self._options, self._staged, self._on_clip = data, options, staged, on_clip
        self.problems: list[Problem] = []  # of clips that were not given as staged, and of questions
        self.coverage: dict[str, dict[str, int]] = {}
        self.stored: collections.Counter = collections.Counter()
        self.windows = 0
        self.without_people: collections.Counter = collections.Counter()  # of the windows, by video
        self._labels: dict[str, dict[str, int]] = {}
        self._content = hashlib.sha256()
        self._pipeline = None  # options of the Apache Beam pipeline that is to look at the videos
        super().__init__(**{"file_format": "array_record", **tfds_options})

    def _info(self) -> tfds.core.DatasetInfo:
        about = dataset_class(self.name)
        return tfds.core.DatasetInfo(
            builder=self,
            description=about.description,
            features=records.features(),
            homepage=about.homepage or None,
            citation=about.citation or None,
            license=about.licence,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager) -> dict:
        if self._staged is None:
            if self._data is None:
                raise PreprocessError(f"give data=..., the folder of {self.name}, to write its records")
            out = Path(self._data_dir_root) / f"{self.name}_preprocessing"  # beside the records of other datasets
            options = dataclasses.replace(self._options or Options(), dataset=self.name)
            dataset = open_checked(Path(self._data), out, options)
            model = wanted(dataset.options)
            refuse_changed_boxes(out, dataset.options)
            with alone(out):
                self._staged = stage(dataset, dataset.read(), out, progress=False, pipeline=self._pipeline)
                write_boxes_of(self._staged, out, dataset.options)
                if model:
                    score(self._staged, model, progress=False)
            self.problems += [*self._staged.problems, *self._staged.misplaced.values()]
        self.stored.update(frames=0, bytes=0, frames_asked=0, bytes_asked=0)
        return {split: self._generate_examples(split, paths) for split, paths in self._staged.splits.items()}

    def download_and_prepare(self, *, download_config=None, **options) -> None:
        """Writes the records, the same bytes every time; `problems` then says what was left out.

        The `beam_options` of a `tfds.download.DownloadConfig` say where the videos are looked at.
        """
        self._pipeline = download_config and download_config.beam_options
        with _fields_in_order():
            super().download_and_prepare(download_config=download_config, **options)

    def _generate_examples(self, split: str, paths: Sequence[Path]) -> Iterator[tuple[str, dict]]:
        dataset, read = self._staged.dataset, self._staged.read
        own = split in read.rows or split in read.annotations.splits()  # not decided by us
        kept, annotated = set(), 0
        for path in paths:
            clip, boxes = staging.load_short(path), self._staged.boxes_of(path)
            asked = read.annotations.questions(clip["video"], split if own else None)
            annotated += len(asked)
            windows = [_spans(record) for record in staging.load_records(path)]
            placed, outside = attach(
                asked, windows, clip["seconds"], dataset.options.windows, dataset.options.segments_per_window
            )
            for question, text in outside:
                advice = "correct its start and end, in seconds"
                self.problems.append(Problem(question.where, "questions", text, advice))
            left_out = {question.id for question, _ in outside}
            kept |= {question.where for question in asked if question.id not in left_out}
            scored = staging.load_records(scores_of(path)) if self._staged.similarity else [None] * len(placed)
            for staged, questions, similarity in zip(staging.load_records(path), placed, scored, strict=True):
                record = record_of(staged, boxes, questions, similarity)
                self._count(record)
                self._content.update(content_of(record))
                yield record.id, records.encode(record)
            self._on_clip()
        self.coverage[split] = {"annotated": read.rows[split] if own else annotated, "kept": len(kept)}
        placed = sum(share["annotated"] for share in self.coverage.values())
        if not own and len(self.coverage) == len(self._staged.splits) and read.rows.total() > placed:
            # Lines that cannot be read, or about no video that can: nobody knows of which split they would be.
            self.coverage["unplaced"] = {"annotated": read.rows.total() - placed, "kept": 0}
        by = self._staged.similarity
        self.info.metadata.update(
            dataset=self.name,
            protocol=dataset.options.protocol or None,
            options=dataset.options.of_dataset(),
            coverage=dict(self.coverage),
            labels=self._labels,
            similarity=by and {"model": by.model, "anchors": by.anchors},
            content=self._content.hexdigest(),  # what `records.digest` tells datasets of equal size apart by
        )

    def _count(self, record: records.Record) -> None:
        """Adds to what is stored, to the windows with and without people, and to what would be if every question had frames of its own."""
        records.count_labels(self._labels, record.boxes)
        peopled = records.windows_with_people(record)
        self.windows += len(peopled)
        if not peopled.all():
            self.without_people[record.video] += int((~peopled).sum())
        sizes = [len(frame) for frame in record.frames]
        self.stored.update(frames=len(sizes), bytes=sum(sizes))
        for question in record.questions:
            first, count = record.windows[question.window]
            seen = [sizes[frame] for frame in record.segments.frame[first : first + count]]
            self.stored.update(frames_asked=len(seen), bytes_asked=sum(seen))


class Tvqa(RecordsBuilder):
    name = "tvqa"


class TvqaPlus(RecordsBuilder):
    name = "tvqa_plus"


class SocialIq(RecordsBuilder):
    name = "social_iq"


class SocialIq2(RecordsBuilder):
    name = "social_iq2"


class VideoFolder(RecordsBuilder):
    name = records.BUILDER_NAME


BUILDERS = {builder.name: builder for builder in (Tvqa, TvqaPlus, SocialIq, SocialIq2, VideoFolder)}


def content_of(record: records.Record) -> bytes:
    """A digest of everything in a record."""
    found = hashlib.sha256()
    columns = [*vars(record.boxes).values(), *vars(record.segments).values(), record.frame_times, record.windows]
    columns.append(record.similarity)
    questions = [list(vars(question).items()) for question in record.questions]
    for value in (*record.frames, *columns, [record.id, record.video, record.mel_scale, questions]):
        data = (
            value
            if isinstance(value, bytes)
            else value.tobytes()
            if hasattr(value, "tobytes")
            else repr(value).encode()
        )
        found.update(len(data).to_bytes(8) + data)
    return found.digest()


def _spans(record: dict) -> list[tuple[float, float]]:
    """The start and end of every window of a staged record."""
    starts, ends = record["segments"]["start"], record["segments"]["end"]
    return [(float(starts[first]), float(ends[first + count - 1])) for first, count in record["windows"]]


@contextlib.contextmanager
def _fields_in_order() -> Iterator[None]:
    """Protobuf writes the fields of an example in an order of its own, another in each process; within, it does not.

    Without this the same records would be files with different bytes.
    """
    serializer = example_serializer.ExampleSerializer
    original = serializer.serialize_example
    serializer.serialize_example = lambda self, example: self.get_tf_example(example).SerializeToString(
        deterministic=True
    )
    try:
        yield
    finally:
        serializer.serialize_example = original


def write(out: Path, staged: Staged, on_clip: Callable[[], None]) -> RecordsBuilder:
    """Writes the dataset below `out`; calls `on_clip` after each clip. The builder knows what happened."""
    tfds.disable_progress_bar()  # The caller shows one bar; TFDS would nest three,
    quiet = contextlib.redirect_stdout(io.StringIO())  # and print.
    with quiet, tempfile.TemporaryDirectory() as nothing:
        builder = BUILDERS[staged.dataset.name](staged=staged, on_clip=on_clip, data_dir=out)
        builder.download_and_prepare(
            download_dir=nothing, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return builder
