"""Real pixels in, one report out: every stage of mmdiff in a few minutes on a laptop, through the real code.

The model is tiny and starts at random, and the data are a few clips. That proves the path, not the method.
"""

import dataclasses
import functools
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mmdiff.data.records import decode, read_split, splits
from mmdiff.data.tokenizer import Tokenizer, train_tokenizer
from mmdiff.data.video_examples import decode_frame
from mmdiff.errors import UserError
from mmdiff.models.pretrained import save_safetensors
from mmdiff.probing.config import ProbeConfig
from mmdiff.probing.probe import probe
from mmdiff.reports.mask_pictures import mask_sheets
from mmdiff.reports.page import Section, encode_png, write_report
from mmdiff.reports.plots import loss_curves
from mmdiff.reports.tables import probe_table
from mmdiff.training import runs
from mmdiff.training.config import PretrainConfig
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import pretrain, run_keys
from mmdiff.whole_files import is_taken, write_whole

STRATEGIES = ("random", "difference")
CLIPS, CLIP_SECONDS = 16, 14.0  # composed; three segments each
SEGMENTS = 3
VOCABULARY = 600
SIZES = {"hidden_size": 128, "vision_layers": 2, "audio_layers": 2, "joint_layers": 2, "span_layers": 1}

NOTES = [
    (
        "The model is tiny (two layers an encoder, 128 wide) and starts from random weights, and the data are a few "
        "clips: these numbers prove that the path works, not that one masking strategy is better than another."
    ),
    (
        "The two losses are of different tasks: telling the hidden places of one person apart is not the same problem "
        "as telling places scattered over a frame apart. They cannot be compared with each other."
    ),
]


def demo_options(composed: bool):
    """How people are looked for, and how many videos are held out: more of a handful of videos than one or two."""
    from preprocessing.options import Options

    options = Options(segments_per_window=SEGMENTS, validation_share=0.4)
    # Faces of composed clips are 40 pixels high or more; looking for smaller ones takes three times as long.
    return dataclasses.replace(options, smallest_face=40) if composed else options


def demo_config(records: Path, tokenizer: Path, initial: Path, strategy: str) -> PretrainConfig:
    """Continued pretraining small enough for two CPU cores."""
    config = PretrainConfig()
    config.data = dataclasses.replace(
        config.data, records=str(records), tokenizer=str(tokenizer), segments=SEGMENTS, text_length=72
    )
    config.model = dataclasses.replace(config.model, checkpoint=str(initial), rows=8, columns=14, dtype="float32")
    config.masking.strategy = strategy
    config.optimizer = dataclasses.replace(config.optimizer, learning_rate=5e-4, warmup_steps=10)
    config.train = dataclasses.replace(
        config.train, steps=60, batch_size=8, log_every=5, evaluate_every=30, save_every=30, patience=0
    )
    return config


def initial_model(config: PretrainConfig, path: Path) -> None:
    """The random weights that every run and the untrained row of the table start from."""
    tiny = dataclasses.replace(config.model, checkpoint="", **SIZES)
    init_key, _ = run_keys(config.train.seed)
    _, params = runs.build_model(tiny, Tokenizer(config.data.tokenizer), init_key)
    # Released weights come with a learned temperature, which so few steps could not find: start from CLIP's 1 / 0.07.
    params["contrastive_scales"] = jnp.full_like(params["contrastive_scales"], np.log(1 / 0.07))
    save_safetensors(path, jax.device_get(params))


def demo(out: str | Path, videos: str | Path | None = None) -> Path:
    """Runs everything into `out` and returns the report; a demo that was stopped goes on where it was.

    Without `videos`, clips are composed from photographs. A folder without `questions.jsonl` is asked whether a face
    was found, by the detector's own account.

    Raises UserError, one sentence, where the folder cannot be used.
    """
    from preprocessing.build import preprocess

    out = Path(out)
    _claim(out, videos)
    seconds: dict[str, float] = {}
    stage = functools.partial(_stage, seconds)
    notes = list(NOTES)

    folder = Path(videos) if videos else out / "videos"
    if not videos and not (folder / "questions.jsonl").exists():
        from preprocessing.compose_clips import compose_clips

        with stage("compose clips from photographs"):
            compose_clips(
                folder, CLIPS, CLIP_SECONDS, seed=0, progress=functools.partial(tqdm, desc="compose", unit="clip")
            )
    records = out / "records"
    with stage("preprocess: decode, detect, track, write records"):
        asked = (folder / "questions.jsonl").exists()
        options = demo_options(composed=not videos)
        if not asked:
            preprocess(folder, records, options)
            options.questions = ask_about_pictures(records, out / "questions.jsonl")
            notes.append(
                "The folder has no questions.jsonl. The probe asks, of every segment, whether the picture is bright, "
                "whether the sound is loud, and whether there is a face: pixels, samples and the detector answer."
            )
        summary = preprocess(folder, records, options)
    if summary.problems:
        notes.append(f"{summary.problems} files or questions had problems: see {records / 'problems.jsonl'}")
    notes += summary.notices

    tokenizer, initial = out / "tokenizer.json", out / "initial.safetensors"
    if not tokenizer.exists():
        with stage("learn a vocabulary"):
            train_tokenizer(list(_texts(records)), VOCABULARY, tokenizer)
    configs = {name: demo_config(records, tokenizer, initial, name) for name in STRATEGIES}
    shared = configs[STRATEGIES[0]]  # data, model and seed are the same in all
    if not initial.exists():
        initial_model(shared, initial)
    for name, config in configs.items():
        with stage(f"continue pretraining with {name} masking"):
            pretrain(config, out / "runs" / name)

    probes = []
    with stage("linear probe"):
        candidates = {"no continued pretraining": initial} | {name: out / "runs" / name for name in STRATEGIES}
        for name, checkpoint in candidates.items():
            settings = shared if checkpoint == initial else ProbeConfig()
            asked = ProbeConfig(data=settings.data, model=settings.model)
            try:
                probes.append(probe(asked, checkpoint, out / "probes" / name) | {"name": name})
            except UserError as error:
                notes.append(f"No linear probe: {error}")
                break
        if probes:
            probes.insert(0, commonest_answer(records, probes[0]))

    with stage("draw the report"):
        maskings = {name: config.masking for name, config in configs.items()}
        sheets = mask_sheets(shared, maskings, splits(str(records)), clips=4)
        metrics = {name: read_metrics(out / "runs" / name / runs.METRICS) for name in STRATEGIES}
        curves = loss_curves(metrics, ["loss", "accuracy", "hidden_pools", "hidden_inside_person"])
    return write_report(
        out,
        "mmdiff: what was masked, and what was learned",
        notes,
        [
            Section(
                "What is hidden",
                "Rows are strategies, columns are frames of one window as the model sees them. A star marks a body "
                "computed from a face.",
                [(f"{sheet.title}. {sheet.description}", encode_png(sheet.picture)) for sheet in sheets],
                None,
            ),
            Section(
                "What is hidden, in numbers",
                "A target is one of the 2x2 groups of patches that the joint encoder reads as one, if any of its patches "
                "is hidden.",
                [],
                [row for sheet in sheets for row in sheet.counts],
            ),
            Section(
                "Continued pretraining",
                "The loss of telling each hidden place from all others of the batch, with audio and with subtitles; how "
                "often that succeeds; how many targets (hidden pools) there are; and which share of hidden patches lies "
                "inside a person's box. Lines are training, marks are validation.",
                [("Loss and accuracy against steps", curves)],
                [_summarise(name, lines) for name, lines in metrics.items()],
            ),
            Section(
                "Linear probe",
                "Accuracy on the questions about held-out videos, mean and standard deviation over seeds of the head. The "
                "encoders are frozen.",
                [],
                probe_table(probes) if probes else None,
            ),
            Section(
                "What was run",
                f"{summary.videos} videos, {summary.seconds_of_video:.0f} s; {summary.frames} frames searched, "
                f"{summary.boxes['face']} faces and {summary.boxes['body']} bodies found; "
                + ", ".join(f"{count} {split} records" for split, count in summary.records.items()),
                [],
                [{"stage": name, "seconds": round(taken, 1)} for name, taken in seconds.items()],
            ),
        ],
    )


def _claim(out: Path, videos: str | Path | None) -> None:
    """Makes `out` this demo's, or raises UserError where it holds something else."""
    source = str(Path(videos).resolve()) if videos else "composed"
    if videos and not Path(videos).is_dir():
        raise UserError(f"{videos} is not a folder of videos")
    note = out / "demo.json"
    if note.exists():
        before = json.loads(note.read_text(encoding="utf-8"))["videos"]
        if before != source:
            raise UserError(f"{out} holds a demo of other videos ({before}): give another folder")
    elif is_taken(out):
        raise UserError(f"{out} is not empty and holds no demo: give a new folder")
    write_whole(note, (json.dumps({"videos": source}) + "\n").encode())


@contextmanager
def _stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    tqdm.write(f"-- {name}")
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _texts(records: Path) -> Iterator[str]:
    """Everything a model of these records reads; the digits and words that frame a question, too."""
    yield "0 1 2 3 4 5 6 7 8 9 10 20 30 40 50 60 70 80 90 100 to answer:"
    for split in splits(records):
        for example in read_split(records, split):
            record = decode(example)
            yield from record.segments.subtitle
            for question in record.questions:
                yield from (question.text, *question.answers)


def ask_about_pictures(records: Path, path: Path) -> Path:
    """Writes three questions per segment whose answers the records themselves know, and returns the file."""
    seen = []
    for split in splits(records):
        for record in map(decode, read_split(records, split)):
            for i, frame in enumerate(record.segments.frame):
                light = float(decode_frame(record.frames[frame], record.id).mean())
                # Louder than silence by how much: zeros where there is no sound.
                sound = float(record.segments.mel[i].mean()) / record.mel_scale
                face = "face" in np.array(record.boxes.part)[record.boxes.frame == frame]
                seen.append((record, i, light, sound, face))
    middle_light, middle_sound = (np.median([row[column] for row in seen]) for column in (2, 3))
    asked = [
        ("is the picture bright or dark?", ["dark", "bright"], lambda light, sound, face: light > middle_light),
        ("is it quiet or loud?", ["quiet", "loud"], lambda light, sound, face: sound > middle_sound),
        ("is there a face?", ["no, there is no face", "yes, there is a face"], lambda light, sound, face: face),
    ]
    with path.open("w", encoding="utf-8") as file:
        for record, i, *measured in seen:
            for kind, (text, answers, label) in enumerate(asked):
                line = {
                    "video": record.video,
                    "id": f"{record.id}-{i}-{kind}",
                    "question": text,
                    "answers": answers,
                    "label": int(label(*measured)),
                    "start": float(record.segments.start[i]),
                    "end": float(record.segments.end[i]),
                }
                file.write(json.dumps(line) + "\n")
    return path


def commonest_answer(records: Path, result: dict) -> dict:
    """A row of the probe's table for whoever answers each question as most often in training, without looking."""
    counts: dict[str, Counter] = {}
    right = []
    for split in ("train", "validation"):
        for record in map(decode, read_split(records, split)):
            for question in record.questions:
                if question.label >= 0 and split == "train":
                    counts.setdefault(question.text, Counter())[question.answers[question.label]] += 1
                elif question.label >= 0:
                    seen = counts.get(question.text, Counter())
                    right.append(
                        max(question.answers, key=lambda answer: seen[answer]) == question.answers[question.label]
                    )
    accuracy = [sum(right) / len(right)]
    return result | {
        "name": "always the commonest answer",
        "mode": "none",
        "accuracy": {name: accuracy for name in result["accuracy"]},
    }


def _summarise(name: str, lines: list[dict]) -> dict:
    train = [line for line in lines if line["split"] == "train"]
    tail = train[-5:]

    def mean(key: str) -> float:
        return round(sum(line[key] for line in tail) / len(tail), 2)

    return {
        "strategy": name,
        "loss at first": round(train[0]["loss"], 2),
        "loss at the end": mean("loss"),
        "accuracy, %": round(100 * mean("accuracy")),
        "hidden": mean("hidden_patches"),
        "hidden pools": mean("hidden_pools"),
        "in boxes, %": round(100 * mean("hidden_inside_person")),
        "clips/s": mean("examples_per_second"),
    }
