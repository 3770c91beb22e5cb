"""Folders as `mmdiff pretrain` and `mmdiff probe` write them, with invented numbers."""

import json
from pathlib import Path

import numpy as np

EPOCHS = 6


def write_run(
    folder: Path,
    strategy="random",
    where="body",
    dataset="tvqa",
    finished=True,
    inside=0.2,
    seed=0,
    preset=None,
    unit=None,
    hide_at=None,
    targets: int | None = None,
    windows=40,
    budget: float | None = None,
) -> Path:
    """A run; with `targets`, one that counted them in each of its windows: about so many of 504 pools."""
    folder.mkdir(parents=True)
    masking = {"strategy": strategy, "where": where, "ratio": 0.25, "unit": unit, "hide_at": hide_at}
    config = {"masking": {k: v for k, v in masking.items() if v is not None}, "train": {"seed": seed}}
    config |= {"preset": preset} if preset else {}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "records.digest").write_text("feedfacefeedface")
    lines = []
    for step in range(10, 110, 10):
        lines.append({"step": step, "split": "train", "loss": 40 / step, "accuracy": step / 200, "mfu": 0.1})
        if targets:
            lines[-1] |= {"masked_loss": 30 / step, "hidden_pools": targets + step % 3}
        lines[-1]["hidden_inside_person"] = inside + 0.5
        if step % 50 == 0:
            lines.append({**lines[-1], "split": "validation", "hidden_inside_person": inside + (step - 75) / 1000})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if targets:
        (folder / "targets.json").write_text(json.dumps(count_targets(targets, unit, hide_at, inside, windows)))
    if finished:
        summary = {"step": 100, "stopped_early": False, "best_step": 50, "best_loss": 0.4}
        summary |= {"box_budget": {"share": budget, "windows": 200, "without": 3}} if budget else {}
        (folder / "summary.json").write_text(json.dumps(summary | ({"dataset": dataset} if dataset else {})))
    return folder


def count_targets(targets: int, unit: str, hide_at: str, inside: float, windows: int) -> dict:
    """As `mmdiff pretrain` counts them."""
    draw = np.random.default_rng(targets)
    spread = 0.0 if unit == "pooled" else 0.05 * targets
    return {
        "split": "validation",
        "ratio": 0.25,
        "unit": unit,
        "hide_at": hide_at,
        "window": [int(x) for x in draw.integers(0, 2**32, windows)],
        "patches": [2016] * windows,
        "hidden": [504] * windows,
        "pools": [504] * windows,
        "targets": np.clip(draw.normal(targets, spread, windows).round(), 1, 504).astype(int).tolist(),
        "hidden_inside": np.clip(draw.normal(inside, 0.05, windows), 0, 1).tolist(),
        "boxes_cover": np.clip(draw.normal(0.17, 0.05, windows), 0, 1).tolist(),
    }


def write_probe(
    folder: Path,
    accuracy=0.6,
    strategy="random",
    where=None,
    dataset="tvqa",
    questions=200,
    seeds=3,
    records="0123456789abcdef",
    checkpoint="/elsewhere/run",
    rng=0,
    **changed,
) -> Path:
    """A probe right about `accuracy` of its questions; `changed` overwrites fields of probe.json."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(rng)
    # What is hard is hard for every seed.
    hardness = np.random.default_rng(99).random(questions)
    correct = hardness[None, :, None] + draw.normal(0, 0.1, (seeds, questions, 3)) < accuracy
    shares = {view: correct[:, :, i].mean(axis=1).tolist() for i, view in enumerate(("audio", "text", "joint"))}
    result = {
        "checkpoint": str(checkpoint),
        "dataset": dataset,
        "protocol": None,
        "strategy": strategy,
        "where": where,
        "mode": "linear",
        "questions": questions,
        "train_questions": 8 * questions,
        "coverage": {"validation": {"annotated": questions + 10, "kept": questions}},
        "chance": 0.2,
        "selection": "train",
        "accuracy": shares,
        "last_epoch_accuracy": shares,
        "epoch": list(range(2, 2 + seeds)),
        "learning_rate": 1e-3,
        "grid": [],
        "seeds": list(range(seeds)),
        "features": None,
        "feature_pass": None,
        "records": records,
        "config": {},
    }
    (folder / "probe.json").write_text(json.dumps(result | changed))
    ids, video = (np.array([f"{x}{i // n}" for i in range(questions)]) for x, n in (("q", 1), ("v", 2)))
    np.savez(folder / "predictions.npz", id=ids, video=video, correct=correct)
    lines = [
        {"step": e, "split": split, "seed": s, "learning_rate": rate, "loss": 1.0, "joint": shares["joint"][s] * e / 6}
        for e in range(1, EPOCHS + 1)
        for split in ("train", "validation")
        for s in range(seeds)
        for rate in (1e-3, 1e-2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
