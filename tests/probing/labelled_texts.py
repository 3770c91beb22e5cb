"""Tiny labelled corpora on disk that a model can learn, and a tiny model that reads them."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from text_encoders import write_masked_model

WORDS = {"music": ["song", "drum", "choir", "violin"], "sport": ["ball", "goal", "race", "swim"]}
COMMON = ["the", "a", "of", "and", "is", "with"]


def write_classes(folder: Path, train=24, held_out=8, doubled=3) -> Path:
    """Texts about one of two things; `doubled` test texts are training texts, in capitals and with markers."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for split, count, shift in (("train", train, 0), ("dev", held_out, 5), ("test", held_out, 3)):
        rows[split] = []
        for i in range(count):
            label = sorted(WORDS)[i % 2]
            words = [WORDS[label][(i + shift + k) % 4] for k in range(1 + i % 3)]
            text = (
                f"{COMMON[i % 6]} {' '.join(words)} {COMMON[(i + shift) % 6]} {split if split != 'train' else ''} {i}"
            )
            rows[split].append({"text": text.strip(), "label": label})
    for i in range(doubled):
        text = rows["train"][i]["text"].upper().replace(" ", "  ", 1)
        rows["test"][i] = {"text": f"<< {text} >>", "label": rows["train"][i]["label"]}
    for split, found in rows.items():
        (folder / f"{split}.txt").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def write_entities(folder: Path, train=24, held_out=8) -> Path:
    """Sentences whose words of music are entities, alone or two together."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count, shift in (("train", train, 0), ("devel", held_out, 1), ("test", held_out, 2)):
        lines = []
        for i in range(count):
            lines.append(f"{COMMON[(i + shift) % 6]}\tO")
            lines.append(f"{WORDS['music'][(i + shift) % 4]}\tB-Thing")
            if i % 2:
                lines.append(f"{WORDS['music'][(i + 1) % 4]}\tI-Thing")
            lines += [f"{WORDS['sport'][i % 4]}\tO", ""]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_model(folder: Path, family="bert", **sizes) -> Path:
    """A tiny random BERT or RoBERTa with no classifier."""
    texts = [" ".join([*COMMON, *WORDS["music"], *WORDS["sport"], "train dev test 0 1 2 3 4 5 6 7 8 9"])] * 4
    # Wide, so that what tells words apart is there whatever order the vocabulary was learnt in: that order varies.
    return write_masked_model(folder, texts, family, **{"hidden_size": 64} | sizes)
