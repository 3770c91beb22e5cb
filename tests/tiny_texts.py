"""A tiny corpus of labelled texts with a domain of its own, and a tiny model that reads it."""

import json
from pathlib import Path

import numpy as np
from text_encoders import write_masked_model

PARSERS = ("parser", "treebank", "grammar", "lexical", "syntactic")
OTHERS = ("the", "model", "uses", "a", "good", "old", "result", "of", "work", "on", "time")
LABELS = ("Background", "Uses")
COMMON = {word: 1_000_000 for word in OTHERS} | {word: 20 for word in PARSERS}  # counts in general


def texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label): "Uses" where it begins with "We"."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        label = LABELS[int(rng.integers(2))]
        words = rng.choice(OTHERS, int(rng.integers(2, 14))).tolist()
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(PARSERS)))
        made.append((" ".join([["They", "We"][label == "Uses"], *words, "."]), label))
    return made


def write_corpus(folder: Path, train: int = 24, dev: int = 9, test: int = 9) -> Path:
    """A folder as SciBERT's: JSON lines called train.txt, dev.txt and test.txt; and counts.txt, of words in general."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("dev", dev), ("test", test))):
        lines = [json.dumps({"text": text, "label": label, "metadata": {}}) for text, label in texts(count, seed)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_counts(path: Path) -> Path:
    """Words in general, as `count_1w.txt` has them."""
    path.write_text("".join(f"{word}\t{count}\n" for word, count in COMMON.items()))
    return path


def write_model(folder: Path, family: str = "bert", **changed) -> Path:
    """A tiny random BERT or RoBERTa that knows the corpus' words."""
    return write_masked_model(folder, [text for text, _ in texts(60)], family, **changed)
