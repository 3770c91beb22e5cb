"""The words after `mmdiff` in, one call out: a thin table of verbs."""

import argparse
import dataclasses
import json
import logging
import shlex
import sys
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from mmdiff.errors import UserError
from mmdiff.training.interruption import EXIT_CODE, Preempted, sigterm_raises

BUCKET = "gs://"
COMPILING = ("demo", "pretrain", "probe", "replay", "sweep", "view")  # verbs whose programs are kept
EXTRA = (
    "anyascii",
    "av",
    "facenet_pytorch",
    "ftfy",
    "ijson",
    "pyarrow",
    "pysubs2",
    "scipy",
    "skimage",
    "supervision",
    "torch",
    "torchvision",
    "trackers",
    "transformers",
)


def preprocess(options: argparse.Namespace, rest: list[str]) -> int:
    from preprocessing.build import preprocess

    _refuse(rest)
    data, chosen = _dataset(options)
    if options.clip_anchors is not None and not options.clip:
        raise UserError("--clip-anchors needs --clip, the CLIP model that scores by them")
    chosen = dataclasses.replace(
        chosen,
        fps=options.fps,
        windows=options.windows,
        segments_per_window=options.segments,
        threshold=options.threshold,
        nms=options.nms,
        smallest_face=options.smallest_face,
        batch=options.batch,
        device=options.device,
        tracker=options.tracker,
        longest_gap=options.longest_gap,
        stage=options.stage,
        boxes=options.boxes,
        import_fps=options.import_fps,
        coco=options.coco,
        beam=tuple(shlex.split(options.beam_options)),
        retries=options.retries,
        patience=options.patience,
        clip=options.clip,
        clip_anchors=chosen.clip_anchors if options.clip_anchors is None else tuple(options.clip_anchors.split(",")),
    )
    summary = preprocess(data, options.out, chosen)
    print(json.dumps(dataclasses.asdict(summary)) if options.json else summary.describe())
    return 1 if options.strict and summary.problems else 0


def check(options: argparse.Namespace, rest: list[str]) -> int:
    from preprocessing.check import check

    _refuse(rest)
    if options.json and options.json.is_dir():
        raise UserError(f"{options.json} is a folder: give a file as --json")
    data, chosen = _dataset(options)
    report = check(data, chosen, options.media)
    if options.json:
        report.write(options.json)
    print(report.describe())
    return 1 if options.strict and report.problems else 0


def _dataset(options: argparse.Namespace):
    """The folder of a dataset, and the options that `preprocess` and `check` share."""
    from preprocessing.options import Options

    chosen = Options(
        detector=options.detector,
        protocol=options.protocol,
        validation_share=options.validation_share,
        **({} if options.workers is None else {"workers": options.workers}),
        questions=options.questions,
    )
    if not options.what:
        raise UserError("the folder of videos has an empty name; give it, or . for the current folder")
    if options.data:
        chosen.dataset = options.what
        return options.data, chosen
    from preprocessing.datasets import DATASETS

    if options.what in DATASETS and not Path(options.what).is_dir():
        raise UserError(f"{options.what} needs --data, the folder that holds it")
    return Path(options.what), chosen


def pretrain(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.training import hosts
    from mmdiff.training.config import PretrainConfig, parse_config
    from mmdiff.training.loop import Watch
    from mmdiff.training.pretrain import pretrain
    from mmdiff.training.pretrain_text import pretrain_text
    from mmdiff.training.text_config import TextPretrainConfig
    from mmdiff.training.trackers import require_wandb

    if options.wandb:
        require_wandb()
    config = parse_config(rest, PretrainConfig, TextPretrainConfig)
    if options.distributed:
        hosts.join()
    watch = Watch(options.profile, options.wandb)
    with sigterm_raises():
        run = pretrain_text if isinstance(config, TextPretrainConfig) else pretrain
        workdir = run(config, options.workdir, progress_bar=hosts.first(), watch=watch)
    if hosts.first():
        print(f"model in {workdir}")
    return 0


def compile(options: argparse.Namespace, rest: list[str]) -> int:
    import jax

    from mmdiff.reports.forecasts import explain, largest_batch, table, tried
    from mmdiff.training.ahead_of_time import forecast
    from mmdiff.training.config import PretrainConfig, parse_config

    jax.config.update("jax_platforms", "cpu")  # nothing runs: a TPU that is there may be in use
    jax.config.update("jax_enable_compilation_cache", False)  # what is compiled for no device cannot be read back
    config = parse_config(rest, PretrainConfig)
    found = forecast(config, options.topology)
    fits = found.compiled.fits
    print(table([found]))
    if not fits and options.advise:
        for change, changed, again in tried(config, found):
            print(f"with {change}\n\n{table([again])}")
            config, found = changed, again
    if options.largest and found.compiled.fits:
        print(f"the largest batch without accumulation\n\n{table([largest_batch(config, found)])}")
    print(explain(found))
    return 0 if fits else 1  # as it was given, whatever would mend it


def replay(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.reports.replay import replay

    _refuse(rest)
    print(replay(options.run_folder).describe())
    return 0


def probe(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.probing.config import ProbeConfig
    from mmdiff.probing.probe import probe
    from mmdiff.probing.text_config import TextProbeConfig
    from mmdiff.probing.text_probe import probe_text
    from mmdiff.reports.tables import probe_table, to_markdown
    from mmdiff.reports.text_tables import scores_of
    from mmdiff.training.config import parse_config

    config = parse_config(rest, ProbeConfig, TextProbeConfig)
    config.mode = options.mode or config.mode
    if isinstance(config, TextProbeConfig):
        with sigterm_raises():
            found = probe_text(config, options.checkpoint, options.workdir)
        print(to_markdown(scores_of(found)))
        return 0
    with sigterm_raises():
        result = probe(config, options.checkpoint, options.workdir)
    name = " ".join(filter(None, (result["strategy"], result["where"]))) or Path(options.checkpoint).name
    print(to_markdown(probe_table([result | {"name": name}])))
    return 0


def sweep(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.sweep import sweep

    probing = [word for word in rest if word.startswith("--probe.")]
    fields = [word for word in rest if word not in probing]
    wrong = [word for word in rest if not word.startswith(("--config.", "--probe.")) or "=" not in word]
    if wrong:
        raise UserError(
            f"do not know what to do with {wrong[0]!r}: fields are --config.SECTION.FIELD=VALUE or --probe...."
        )
    methods = [name.strip() for name in options.strategies.split(",") if name.strip()]
    with sigterm_raises():
        written = sweep(
            options.config,
            methods,
            options.seeds,
            options.probe,
            options.out,
            fields,
            [f"--config.{word.removeprefix('--probe.')}" for word in probing],
        )
    print(f"{written.main_table}\nopen {written.page}")
    return 0


def anchors(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.reports.anchors_plot import corpus_anchors

    _refuse(rest)
    given = {
        "find": options.count,
        "shortlist": options.shortlist,
        "min_count": options.min_count,
        "min_length": options.min_length,
        "unigrams": options.unigrams,
        "listed": False if options.unlisted else None,
    }
    found = corpus_anchors(options.corpus, **{name: value for name, value in given.items() if value is not None})
    print(found.describe())
    if options.out:
        print(f"picture in {found.write(options.out)}")
    return 0


def view(options: argparse.Namespace, rest: list[str]) -> int:
    if options.runs and options.runs[0] == Path("boxes"):
        return _view_boxes(options, rest)
    from mmdiff.reports.view import view, view_runs
    from mmdiff.training.config import PretrainConfig, parse_config

    # Folders behind an option are not taken for `runs` by argparse.
    folders = [*options.runs, *(Path(word) for word in rest if not word.startswith("--"))]
    rest = [word for word in rest if word.startswith("--")]
    bare = [word for word in rest if word.startswith("--config.") and "=" not in word]
    if bare:
        raise UserError(f"{bare[0]} needs its value behind an equals sign: {bare[0]}=VALUE")
    if folders:
        if options.config or options.strategies or rest:
            raise UserError("a run knows its configuration and strategy: give folders of runs, or --config, not both")
        print(f"open {view_runs(folders, options.out, options.split, options.clips, options.records)}")
        return 0
    if options.records:
        raise UserError("--records is for folders of runs: with --config give --config.data.records=RECORDS")
    config = parse_config([*([f"--config={options.config}"] if options.config else []), *rest], PretrainConfig)
    asked = options.strategies or config.masking.strategy
    strategies = [name.strip() for name in asked.split(",")]
    print(f"open {view(config, options.out, strategies, options.split, options.clips)}")
    return 0


def _view_boxes(options: argparse.Namespace, rest: list[str]) -> int:
    from preprocessing.view_boxes import view_boxes

    _refuse(rest)
    if len(options.runs) != 2:
        raise UserError("give the folder of records: mmdiff view boxes RECORDS --out FOLDER")
    print(f"open {view_boxes(options.runs[1], options.out, options.video, options.clips)}")
    return 0


def report(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.reports.report import report

    _refuse(rest)
    written = report(options.runs, options.out)
    print(f"{written.main_table}\nopen {written.page}")
    return 0


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.demo import demo

    _refuse(rest)
    print(f"open {demo(options.out, options.videos)}")
    return 0


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says defaults where there is one to say: not of switches, nor of what is empty."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.nargs == 0 or action.default in ("", None)
        return action.help if silent else super()._get_help_string(action)


def _count(word: str) -> int:
    """A number of things on the command line: 0 or more."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word} is not a whole number")
    return int(word)


def _refuse_buckets(words: list[str]) -> None:
    for word in words:
        address = word.split("=", 1)[-1]
        if address.startswith(BUCKET):
            bucket, _, path = address.removeprefix(BUCKET).partition("/")
            raise UserError(
                f"{address} is not a folder: mount the bucket (gcsfuse --implicit-dirs {bucket} MOUNT) and give "
                f"MOUNT/{path}"
            )


def _refuse(rest: list[str]) -> None:
    if rest:
        raise UserError(f"do not know what to do with {' '.join(rest)!r}; see --help")


def parser() -> argparse.ArgumentParser:
    """Every verb and its own options; `--config` and its fields go through to `mmdiff.training.config`."""
    top = argparse.ArgumentParser(prog="mmdiff", description=__import__("mmdiff").__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(function.__name__, help=help, description=help, formatter_class=_Help)
        added.set_defaults(run=function)
        return added

    def with_config(added: argparse.ArgumentParser) -> None:
        added.epilog = "--config FILE[:ARGUMENT] gives the configuration, --config.SECTION.FIELD=VALUE changes it."

    def with_dataset(added: argparse.ArgumentParser) -> None:
        added.add_argument("what", help="folder of videos; with --data: tvqa, tvqa_plus, social_iq or social_iq2")
        added.add_argument("--data", type=Path, help="folder of that dataset, as it was unpacked")
        added.add_argument("--protocol", default="", help="social_iq: a2 (one right, one wrong answer) or a4")
        added.add_argument(
            "--detector", default="", help="face_body, mtcnn, haar, hog, human, transformers:FOLDER_OR_ID, "
            "import:FILE, or your own module:Class"
        )  # fmt: skip
        added.add_argument("--questions", type=Path, help="questions.jsonl, if it is not in the folder of videos")
        added.add_argument("--validation-share", type=float, default=0.25, help="share of a folder's videos")
        added.add_argument("--workers", type=int, help="processes; as many as there are cores if absent")
        added.add_argument("--strict", action="store_true", help="exit with 1 if anything had a problem")

    added = verb(check, "say what a dataset's folder holds and what it lacks, before any long work")
    with_dataset(added)
    added.add_argument("--no-media", dest="media", action="store_false", help="do not open videos, images and sound")
    added.add_argument("--json", type=Path, help="file for all that was found, machine-readable")

    added = verb(preprocess, "detect people in the clips of a dataset, or of a folder of videos, and write records")
    with_dataset(added)
    added.add_argument("out", type=Path, help="folder for the records")
    added.add_argument("--fps", type=float, default=3.0, help="frames per second of video to look for people in")
    added.add_argument("--segments", type=int, default=7, help="segments of 4.6667 s in a window")
    added.add_argument(
        "--windows", default="", help="tiles: one after another; spans: around what is asked about; grid: spans, moved so "
        "that they share frames"
    )  # fmt: skip
    added.add_argument("--stage", default="all", help="detect: boxes only; build: records of what was detected")
    added.add_argument("--threshold", type=float, help="score from which a box is sure; the detector's own if absent")
    added.add_argument("--nms", type=float, default=0.6, help="overlap at which the less sure of two boxes goes")
    added.add_argument("--smallest-face", type=int, default=20, help="pixels; 40 doubles the speed of MTCNN")
    added.add_argument("--batch", type=int, default=16, help="pictures handed to the detector at once")
    added.add_argument("--device", default="cpu", help="where the detector runs, such as cuda")
    added.add_argument("--tracker", default="bytetrack", help="bytetrack or none")
    added.add_argument("--longest-gap", type=float, default=1.0, help="seconds for which a hidden person is filled in")
    added.add_argument("--boxes", type=Path, help="build from these boxes: boxes.parquet, COCO, TVQA+ or MOT")
    added.add_argument("--import-fps", type=float, help="pictures a second that --boxes or import: counts")
    added.add_argument("--coco", action="store_true", help="write the boxes as COCO json, too")
    added.add_argument("--beam-options", default="", metavar="WORDS", help="run on Apache Beam: '--runner=...'")
    added.add_argument("--retries", type=int, default=2, help="how often a video whose reading failed is tried again")
    added.add_argument("--patience", type=float, default=600.0, help="seconds without a picture: a video is given up")
    added.add_argument("--json", action="store_true", help="print the summary as one line of JSON")
    added.add_argument("--clip", default="", help="folder or hub id of a CLIP model that scores every stored frame")
    added.add_argument("--clip-anchors", help="comma-separated words that --clip scores places by; person if absent")

    added = verb(pretrain, "continue pretraining on records of videos, or on texts")
    added.add_argument("--workdir", type=Path, required=True, help="folder of the run; a killed run goes on there")
    added.add_argument(
        "--distributed", action="store_true", help="this is one of several hosts that run the same command"
    )
    added.add_argument("--profile", type=_count, default=0, metavar="N", help="write a trace of N steps")
    added.add_argument("--wandb", default="", metavar="PROJECT", help="show metrics on wandb, too")
    with_config(added)

    added = verb(compile, "compile pretraining for a TPU that need not be there: does it fit, how long will it take")
    added.add_argument("--topology", default="v2-8", help="slice: such as v2-8 or v5e-16, or its shape, such as v2:2x2")
    added.add_argument(
        "--no-advice", dest="advise", action="store_false", help="do not look for changes that make it fit"
    )
    added.add_argument("--largest", action="store_true", help="look for the largest batch that fits, too")
    with_config(added)

    added = verb(
        replay, "take the step again at which a run's loss or gradient was no number, and say where that is from"
    )
    added.add_argument("run_folder", type=Path, metavar="RUN", help="folder of pretrain")

    added = verb(
        probe, "train linear heads on a frozen model, or the whole model, on questions or labelled texts and score it"
    )
    added.add_argument(
        "--checkpoint", type=Path, required=True, help="folder of a run or of a text model, or a checkpoint file"
    )
    added.add_argument("--workdir", type=Path, required=True, help="folder for features and probe.json")
    added.add_argument("--mode", choices=("linear", "finetune"), help="what trains; the configuration's if absent")
    with_config(added)

    added = verb(sweep, "continue pretraining on text by several methods and seeds, probe each run, and report")
    added.add_argument("--config", required=True, help="FILE of pretraining, such as configs/acl_arc.py")
    added.add_argument(
        "--strategies", required=True, help="comma-separated arguments of FILE; none is the model as it came"
    )
    added.add_argument("--seeds", type=_count, default=5, metavar="N", help="runs of each, with seeds from 0")
    added.add_argument("--probe", required=True, help="FILE[:ARGUMENT] of the probe, such as configs/probe_acl_arc.py")
    added.add_argument(
        "--out", type=Path, required=True, help="folder of all runs, probes and the report; goes on there"
    )
    added.epilog = (
        "--config.SECTION.FIELD=VALUE changes pretraining, --probe.SECTION.FIELD=VALUE the probe, whose texts are those of "
        "pretraining if --probe.data.corpus does not say otherwise."
    )

    added = verb(
        anchors, "find the words that set a corpus of texts apart (TF-ICF), as a run on text finds its anchors"
    )
    added.add_argument(
        "corpus", type=Path, help="folder of train, dev and test files, or one file: JSON lines, CoNLL, text"
    )
    # What is not given is as in a run on text: AnchorsConfig has the defaults.
    added.add_argument("--count", type=_count, metavar="K", help="words to find")
    added.add_argument(
        "--shortlist",
        type=_count,
        metavar="N",
        help="TF-ICF ranks N x K words, those most in excess of general English; 0: all words",
    )
    added.add_argument("--min-count", type=_count, metavar="N", help="times that a word occurs in train")
    added.add_argument("--min-length", type=_count, metavar="N", help="letters of a word")
    added.add_argument("--unigrams", help="counts of words in general, as count_1w.txt.gz; wordfreq's if absent")
    added.add_argument(
        "--unlisted",
        action="store_true",
        help="find words that are not listed in general, too, as if as rare as the rarest",
    )
    added.add_argument("--out", type=Path, help="folder for anchors.png and anchors.json")

    added = verb(view, "show what masking hides of real records: of strategies, or of runs side by side")
    added.add_argument(
        "runs", type=Path, nargs="*", help="folders of pretrain, of the same records; or none and --config; or the word "
        "boxes and a folder of records: what was found in its videos"
    )  # fmt: skip
    added.add_argument("--config", help="FILE[:ARGUMENT], as for pretrain")
    added.add_argument("--records", type=Path, help="where the runs' records lie now, if they were moved")
    added.add_argument("--out", type=Path, required=True, help="folder for the page and its pictures")
    added.add_argument("--strategies", help="comma-separated, one row of pictures each; the configuration's if absent")
    added.add_argument("--split", default="train")
    added.add_argument("--clips", type=int, default=6, choices=range(1, 101), metavar="1..100")
    added.add_argument("--video", action="append", default=[], help="of `view boxes`: a video; may stand several times")
    with_config(added)

    added = verb(report, "tables of runs and probes beside the paper's, with tests, curves and sources")
    added.add_argument("runs", type=Path, nargs="+", help="folders of pretrain and of probe, or folders above them")
    added.add_argument("--out", type=Path, required=True, help="folder for report.html, .md, .tex and .json")

    added = verb(demo, "run the whole path on small real pixels and write a report")
    added.add_argument("out", type=Path, help="folder for everything it makes")
    added.add_argument("--videos", type=Path, help="a folder of your own instead of composed clips")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb.

    Exit codes: 0, it is done; 1, it is, and what it found is bad (`--strict`, a step that does not fit); 2, a user's mistake,
    told in one sentence, which no repetition mends; 75, SIGTERM, and 130, Ctrl-C, after which the same command goes on.
    Anything else is a crash.
    """
    words = sys.argv[1:] if arguments is None else arguments
    options, rest = parser().parse_known_args(words)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mmdiff").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs, with a traceback, what it then raises
    try:
        _refuse_buckets(words)
        if options.verb in COMPILING:
            from mmdiff.compiled_programs import keep_compiled_programs

            keep_compiled_programs()
        with logging_redirect_tqdm():
            return options.run(options, rest)
    except Preempted as stopped:
        print(f"mmdiff {options.verb}: {stopped}", file=sys.stderr)
        return EXIT_CODE
    except UserError as error:
        print(f"mmdiff {options.verb}: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print(
            f"mmdiff {options.verb}: {error.name} is not installed: run `make setup` in the repository", file=sys.stderr
        )
    except OSError as error:
        print(f"mmdiff {options.verb}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"mmdiff {options.verb}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
