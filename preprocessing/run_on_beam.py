"""Clips in, the result of each staged out, by Apache Beam: on Dataflow, Flink, Spark, or by processes of this machine.

Every machine must see the videos, and the folder of the records, under the same paths.
"""

import contextlib
import io
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam
from apache_beam.options.pipeline_options import PipelineOptions

from preprocessing import staging
from preprocessing.clip import Clip
from preprocessing.options import Options
from preprocessing.problems import PreprocessError
from preprocessing.work import Counters, Worker

logging.getLogger("apache_beam").setLevel(logging.ERROR)  # It tells of everything it tries.
QUIET = "--default_sdk_harness_log_level=ERROR"
LOOK_EVERY = 5.0  # seconds
MOST_TOLD = 500  # characters of an error


def parse(words: Sequence[str]) -> PipelineOptions:
    """The options of a pipeline, such as --runner=FlinkRunner. Raises PreprocessError for what Beam does not know."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions([QUIET, *words])
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
            (
                steps
                | apache_beam.Create(list(jobs))
                | apache_beam.Reshuffle()
                | apache_beam.ParDo(_Stage(options, uuid.uuid4().hex))
            )
    except Exception as error:
        told = " ".join(str(error).split())[:MOST_TOLD] or repr(error)
        raise PreprocessError(
            f"the Beam pipeline ended with an error ({told}); what is done is kept: mend that and start again"
        ) from error
    finally:
        ended.set()
        watcher.join()


class _Stage(apache_beam.DoFn):
    """Results are files, so nothing is given on. A bundle that is run again passes over what is there.

    A process that does not end is the runner's to end: Beam takes it badly when one ends itself.
    """

    def __init__(self, options: Options, run: str):
        self._options, self._run = options, run

    def setup(self) -> None:
        self._worker = Worker(self._options, Counters(), self._run)

    def process(self, job: tuple[Clip, Path]) -> Iterator[None]:
        clip, staged = job
        failure = staging.load_failure(staged)  # may be of an earlier run whose machines have not quite ended
        if not staged.exists() and not (failure and failure.run == self._run):
            self._worker(clip, staged)
        yield from ()
