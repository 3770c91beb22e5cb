"""Folders as `mmdiff pretrain` and `mmdiff probe` write them for text, with invented numbers."""

import json
from pathlib import Path

import numpy as np

from mmdiff.training.text_presets import TEXT_METHODS

CLASSES = ("Background", "CompareOrContrast", "Extends", "Future", "Motivation", "Uses")


def run_config(method: str, seed=0, preset="paper", **fields) -> dict:
    """config.json of a method; `fields` as anchors__find=5."""
    config = {
        "preset": preset,
        "data": {"corpus": "/somewhere/citation_intent", "longest": 256},
        "model": {"checkpoint": "/models/roberta-base", "dtype": "bfloat16"},
        "masking": {
            "strategy": "random_word",
            "ratio": 0.25,
            "whole_words": True,
            "replacement": "random",
            "static": True,
        },
        "anchors": {"find": 20, "compare": "nearest", "words": []},
        "objective": {"weighting": "equal", "soft_masked_gradients": False},
        "train": {"seed": seed, "epochs": 150},
    }
    for path, value in TEXT_METHODS[method].items():
        section, name = path.split(".")
        config[section][name] = value
    for path, value in fields.items():
        section, name = path.split("__")
        config[section][name] = value
    return config


def write_text_run(folder: Path, method: str, seed=0, dataset="citation_intent", finished=True, **fields) -> Path:
    """A run of a hundred steps."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(run_config(method, seed, **fields)))
    (folder / "anchors.json").write_text(json.dumps({"words": ["parser", "treebank", "coreference"]}))
    lines = []
    for step in range(10, 110, 10):
        lines.append(
            {"step": step, "split": "train", "loss": 4 + 20 / step, "masked_loss": 4.0, "accuracy": step / 300}
        )
        if step % 50 == 0:
            lines.append({**lines[-1], "split": "validation"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        summary = {"kind": "text", "dataset": dataset, "step": 100, "best_step": 50, "best_loss": 4.2}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_text_probe(
    folder: Path, score: float, method: str | None = None, pretraining_seed=0, seeds=5, mode="finetune",
    dataset="citation_intent", metric="macro_f1", records="0123456789abcdef", checkpoint="/elsewhere/run", fields=None,
    **changed,
) -> Path:  # fmt: skip
    """A probe about as good as `score`; `changed` overwrites fields of probe.json."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(int(1000 * score) + pretraining_seed)
    labels = CLASSES if dataset == "citation_intent" else ("a", "b")

    def shares(middle: float) -> list[float]:
        return [float(x) for x in np.clip(draw.normal(middle, 0.01, seeds), 0, 1)]

    scores = {"accuracy": shares(score + 0.08), "macro_f1": shares(score)}
    scores["micro_f1"] = scores["accuracy"]
    result = {
        "kind": "text",
        "checkpoint": str(checkpoint),
        "model": "roberta-base",
        "dataset": dataset,
        "task": "classification",
        "mode": mode,
        "selection": "validation",
        "pretraining": run_config(method, pretraining_seed, **(fields or {})) if method else None,
        "records": records,
        "config": {"preset": "standard", "mode": mode, "data": {"corpus": "x"}, "probe": {"pool": "mean"},
                   "optimizer": {"learning_rate": 2e-5}},
        "labels": list(labels),
        "metric": metric,
        "texts": {"train": 1688, "validation": 114, "test": 139},
        "duplicates": {"test": 139, "in_train": 52 if dataset == "citation_intent" else 0},
        "baseline": {"accuracy": 0.5108, "micro_f1": 0.5108, "macro_f1": 0.1127},
        "scores": scores,
        "deduplicated_scores": {k: [x - 0.2 for x in v] for k, v in scores.items()} if dataset == "citation_intent" else None,
        "per_label": {label: {"precision": shares(score), "recall": shares(score), "f1": shares(score), "support": 20 + i}
                      for i, label in enumerate(labels)},
        "learning_rate": 2e-5,
        "epoch": [3] * seeds,
        "seeds": list(range(seeds)),
    }  # fmt: skip
    (folder / "probe.json").write_text(json.dumps(result | changed))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "split": "train", "seed": 0, "loss": 1.0}) + "\n")
    return folder
