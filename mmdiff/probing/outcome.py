"""What heads got right, seed by seed, in; probe.json, predictions.npz and metrics.jsonl out."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from mmdiff.objectives.question_answering import PREDICTIONS
from mmdiff.whole_files import whole, write_whole

RESULT, QUESTIONS, METRICS = "probe.json", "predictions.npz", "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One probe: `k` seeds on the `q` validation questions."""

    id: np.ndarray  # str [q]
    video: np.ndarray  # str [q], the video that each is about
    answers: np.ndarray  # int [q], how many each offers
    train_questions: int
    correct: np.ndarray  # bool [k, q, 3], of the chosen epoch, from audio, from text and from both
    last_correct: np.ndarray  # float [k, 3], shares right after the last epoch that ran
    epoch: list[int]  # the chosen one of each seed, counted from 1
    learning_rate: float
    grid: list[dict]  # {"learning_rate", "selection_accuracy": [for each seed]}
    lines: list[dict]  # of metrics.jsonl


def write_outcome(folder: Path, outcome: Outcome, about: dict) -> dict:
    """Writes the three files, probe.json last, and returns what is in it: `about` and the accuracies."""

    def for_each_prediction(shares: np.ndarray) -> dict[str, list[float]]:
        return {name: [float(x) for x in shares[:, i]] for i, name in enumerate(PREDICTIONS)}

    result = about | {
        "questions": len(outcome.id),
        "train_questions": outcome.train_questions,
        "chance": float((1 / outcome.answers).mean()),
        "accuracy": for_each_prediction(outcome.correct.mean(axis=1)),
        "last_epoch_accuracy": for_each_prediction(outcome.last_correct),
        "epoch": outcome.epoch,
        "learning_rate": outcome.learning_rate,
        "grid": outcome.grid,
        "seeds": list(range(len(outcome.epoch))),
    }
    write_probe(folder, result, outcome.lines, id=outcome.id, video=outcome.video, correct=outcome.correct)
    return result


def write_probe(folder: Path, result: dict, lines: list[dict], **predictions: np.ndarray) -> None:
    """Writes the three files of a probe: the arrays of its predictions, its lines, and, last, what is in `result`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULT).unlink(missing_ok=True)  # An earlier one would not be of the predictions that are written now.
    with whole(folder / QUESTIONS) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **predictions)
    write_whole(folder / METRICS, "".join(json.dumps(line) + "\n" for line in lines).encode())
    write_whole(folder / RESULT, (json.dumps(result, indent=2) + "\n").encode())
