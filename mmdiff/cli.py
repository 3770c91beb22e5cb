"""The words after `mmdiff` in, one call out: a thin table of verbs."""

import argparse
import logging
import os
import sys
from pathlib import Path

from tqdm.contrib.logging import logging_redirect_tqdm

from mmdiff.errors import UserError

EXTRA = ("av", "facenet_pytorch", "pysubs2", "scipy", "skimage", "torch", "torchvision", "transformers")


def preprocess(options: argparse.Namespace, rest: list[str]) -> int:
    from preprocessing.build import preprocess
    from preprocessing.options import Options

    _refuse(rest)
    summary = preprocess(
        options.videos,
        options.out,
        Options(
            fps=options.fps,
            detector=options.detector,
            segments_per_window=options.segments,
            validation_share=options.validation_share,
            workers=options.workers,
            questions=options.questions,
        ),
    )
    print(summary.describe())
    return 1 if options.strict and summary.problems else 0


def pretrain(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.training.config import PretrainConfig, parse_config
    from mmdiff.training.pretrain import pretrain

    print(f"model in {pretrain(parse_config(rest, PretrainConfig), options.workdir)}")
    return 0


def probe(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.probing.linear_probe import ProbeConfig, probe
    from mmdiff.reports.tables import probe_table, to_markdown
    from mmdiff.training.config import parse_config

    result = probe(parse_config(rest, ProbeConfig), options.checkpoint, options.workdir)
    print(to_markdown(probe_table([result | {"name": result["strategy"] or Path(options.checkpoint).name}])))
    return 0


def view(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.reports.mask_pictures import view
    from mmdiff.training.config import PretrainConfig, parse_config

    config = parse_config(rest, PretrainConfig)
    strategies = options.strategies.split(",") if options.strategies else [config.masking.strategy]
    print(f"open {view(config, options.out, strategies, options.split, options.clips)}")
    return 0


def demo(options: argparse.Namespace, rest: list[str]) -> int:
    from mmdiff.demo import demo

    _refuse(rest)
    print(f"open {demo(options.out, options.videos)}")
    return 0


def _refuse(rest: list[str]) -> None:
    if rest:
        raise UserError(f"do not know what to do with {' '.join(rest)!r}; see --help")


def parser() -> argparse.ArgumentParser:
    """Every verb and its own options; `--config` and its fields go through to `mmdiff.training.config`."""
    top = argparse.ArgumentParser(prog="mmdiff", description=__import__("mmdiff").__doc__)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, help: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(
            function.__name__, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        added.set_defaults(run=function)
        return added

    def with_config(added: argparse.ArgumentParser) -> None:
        added.epilog = "--config FILE[:ARGUMENT] gives the configuration, --config.SECTION.FIELD=VALUE changes it."

    added = verb(preprocess, "detect people in a folder of videos and write records")
    added.add_argument("videos", type=Path, help="folder of mp4, mkv, webm or avi files, with .srt or .vtt beside them")
    added.add_argument("out", type=Path, help="folder for the records")
    added.add_argument("--fps", type=float, default=3.0, help="frames per second to look for people in")
    added.add_argument("--detector", default="face_body", help="face_body, mtcnn, hog, or your own module:Class")
    added.add_argument("--segments", type=int, default=7, help="segments of 4.6667 s in a window")
    added.add_argument("--validation-share", type=float, default=0.25, help="share of the videos kept for validation")
    added.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    added.add_argument("--questions", type=Path, help="questions.jsonl, if it is not in the folder of videos")
    added.add_argument("--strict", action="store_true", help="exit with 1 if any file had a problem")

    added = verb(pretrain, "continue pretraining on records")
    added.add_argument("--workdir", type=Path, required=True, help="folder of the run; a killed run goes on there")
    with_config(added)

    added = verb(probe, "train linear heads on a frozen model and score them")
    added.add_argument("--checkpoint", type=Path, required=True, help="folder of a run, or a checkpoint file")
    added.add_argument("--workdir", type=Path, required=True, help="folder for features and probe.json")
    with_config(added)

    added = verb(view, "show what masking hides of real records")
    added.add_argument("--out", type=Path, required=True, help="folder for the page and its pictures")
    added.add_argument("--strategies", help="comma-separated, one row of pictures each; the configuration's if absent")
    added.add_argument("--split", default="train")
    added.add_argument("--clips", type=int, default=6, choices=range(1, 101), metavar="1..100")
    with_config(added)

    added = verb(demo, "run the whole path on small real pixels and write a report")
    added.add_argument("out", type=Path, help="folder for everything it makes")
    added.add_argument("--videos", type=Path, help="a folder of your own instead of composed clips")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb; a user's mistake ends in one sentence and exit code 2."""
    options, rest = parser().parse_known_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mmdiff").setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm():
            return options.run(options, rest)
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
