"""Clips in, the result of each staged out, by Apache Beam: on Dataflow, Flink, Spark, or by processes of this machine.

Every machine must see the videos, and the folder of the records, under the same paths.
"""

import contextlib
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.options import Options
from preprocessing.problems import PreprocessError
from preprocessing.work import Counters, Worker

LOOK_EVERY = 2.0  # seconds


def parse(words: Sequence[str]) -> PipelineOptions:
    """The options of a pipeline, such as --runner=FlinkRunner. Raises PreprocessError for what Beam does not know."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(words))
            every = options.get_all_options(drop_default=True, retain_unknown_options=True)
    except SystemExit:  # Beam's parser ends the program.
        told = said.getvalue().strip().rpartition("\n")[2].removeprefix("-: ")
        raise PreprocessError(f"--beam-options={' '.join(words)!r}: {told}") from None
    unknown = sorted(set(every) - set(options.get_all_options())) + [word for word in words if word[:2] != "--"]
    if unknown:
        raise PreprocessError(f"--beam-options={' '.join(words)!r}: Apache Beam has no option {unknown[0]!r}")
    return options


def run_on_beam(
    jobs: Iterable[tuple[Clip, Path]], options: Options, pipeline: PipelineOptions, on_wait: Callable[[], None]
) -> None:
    """Runs every job; calls `on_wait` now and then. Raises PreprocessError where the pipeline ends with an error."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(LOOK_EVERY):
            on_wait()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with apache_beam.Pipeline(options=pipeline) as steps:
            # Reshuffled, since a runner may otherwise give all clips to the machine that made the list.
            steps | apache_beam.Create(list(jobs)) | apache_beam.Reshuffle() | apache_beam.ParDo(_Stage(options))
    except Exception as error:
        raise PreprocessError(
            f"the Beam pipeline ended with an error ({str(error).strip().splitlines()[0] if str(error) else error!r}); "
            "what is done is kept: mend that and start again"
        ) from error
    finally:
        ended.set()
        watcher.join()


class _Stage(apache_beam.DoFn):
    """Results are files, so nothing is given on. A bundle that is run again passes over what is there."""

    def __init__(self, options: Options):
        self._options = options

    def setup(self) -> None:
        self._worker = Worker(self._options, Counters())
        self._worker.end_if_stuck()

    def process(self, job: tuple[Clip, Path]) -> Iterator[None]:
        clip, staged = job
        if not staged.exists() and staging.load_failure(staged) is None:
            self._worker(clip, staged)
        yield from ()
