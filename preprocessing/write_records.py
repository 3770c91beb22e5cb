"""Staged videos and questions in, the TFDS dataset in ArrayRecord files out."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from mmdiff.data import records
from preprocessing import staging
from preprocessing.process_video import record_of
from preprocessing.questions import Asked, attach


class VideoFolder(tfds.core.GeneratorBasedBuilder):
    """Windows of the videos of one folder, with boxes around people."""

    name = records.BUILDER_NAME
    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        splits: Mapping[str, Sequence[Path]],
        questions: Mapping[str, Sequence[Asked]],
        metadata: Mapping,
        on_video: Callable[[], None],
        data_dir: Path,
    ):
        self._staged, self._questions, self._metadata, self._on_video = splits, questions, metadata, on_video
        self.outside: list[tuple[Asked, str]] = []  # questions about a time that their video has not, and why
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Windows of a folder of videos: JPEG frames, mel spectrograms, subtitles, boxes around people.",
            features=records.features(),
            metadata=tfds.core.MetadataDict(self._metadata),
        )

    def _split_generators(self, dl_manager) -> dict:
        return {split: self._generate_examples(staged) for split, staged in self._staged.items()}

    def _generate_examples(self, staged: Sequence[Path]) -> Iterator[tuple[str, dict]]:
        for path in staged:
            video = staging.load(path)
            for record in self._records_of(video):
                yield record.id, records.encode(record)
            self._on_video()

    def _records_of(self, video: dict) -> list[records.Record]:
        windows = video["windows"]
        spans = [(float(w["segments"]["start"][0]), float(w["segments"]["end"][-1])) for w in windows]
        placed, outside = attach(self._questions.get(video["video"], ()), spans, video["seconds"])
        self.outside += outside
        return [record_of(window, questions) for window, questions in zip(windows, placed, strict=True)]


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


def write(out: Path, **contents) -> VideoFolder:
    """Writes the dataset below `out`; takes what VideoFolder takes. The builder knows what happened."""
    tfds.disable_progress_bar()  # The caller shows one bar; TFDS would nest three,
    quiet = contextlib.redirect_stdout(io.StringIO())  # and print.
    with quiet, _fields_in_order(), tempfile.TemporaryDirectory() as nothing:
        builder = VideoFolder(data_dir=out, **contents)
        builder.download_and_prepare(
            download_dir=nothing, download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    return builder
