#!/usr/bin/env bash
# Every strategy of the paper on a folder of videos, from the demo's records to pictures and the report, with a tiny model
# and a CLIP that start at random: it proves the path, not the methods.
#
#     benchmarks/strategies.sh OUT VIDEOS     (no spaces in OUT; videos without a questions.jsonl: the demo asks its own)
set -euo pipefail
out=$1 videos=$2
PATH=$PWD/.venv/bin:$PATH
records=$out/demo/records
fields="--config.data.records=$records --config.data.tokenizer=$out/demo/tokenizer.json --config.data.segments=3
  --config.data.text_length=72 --config.model.checkpoint=$out/demo/initial.safetensors --config.model.rows=8
  --config.model.columns=14 --config.model.dtype=float32 --config.optimizer.learning_rate=5e-4 --config.train.steps=120
  --config.train.patience=0"

mmdiff demo "$out/demo" --videos "$videos"
python benchmarks/random_clip.py "$out/clip"
# Nobody is looked for again: only the frames that the records hold are compared with the anchor.
mmdiff preprocess "$videos" "$records" --segments 3 --validation-share 0.4 --questions "$out/demo/questions.jsonl" \
  --clip "$out/clip" --clip-anchors person
for preset in paper equal_budget; do
  for strategy in random difference_body difference_face attn mst clip; do
    name=$preset/$strategy
    mmdiff pretrain --config configs/video_folder.py:$strategy --config.preset=$preset --workdir "$out/runs/$name" $fields
    mmdiff probe --config configs/probe_video_folder.py --checkpoint "$out/runs/$name" --workdir "$out/probes/$name"
  done
done
mmdiff view "$out"/runs/paper/* "$out"/runs/equal_budget/* --out "$out/view" --clips 4
mmdiff report "$out/runs" "$out/probes" --out "$out/report"
