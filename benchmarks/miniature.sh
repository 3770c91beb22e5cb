#!/usr/bin/env bash
# From raw folders to the report's table, by the README's commands, on the small trees of miniature_trees.py and with a
# tiny model that starts at random: it proves the path, not the method.
#
#     benchmarks/miniature.sh OUT [SHARED]
set -euo pipefail
out=$1 shared=${2:-../shared}
PATH=$PWD/.venv/bin:$PATH
tokenizer=$shared/data/tokenizer/lowercase_encoder.json
tiny="--config.model.hidden_size=128 --config.model.vision_layers=2 --config.model.audio_layers=2
  --config.model.joint_layers=2 --config.model.span_layers=1 --config.model.rows=8 --config.model.columns=14
  --config.model.dtype=float32 --config.optimizer.learning_rate=5e-4"

python benchmarks/miniature_trees.py "$out" --shared "$shared"
for dataset in tvqa social_iq2; do
  mmdiff check $dataset --data "$out/$dataset" --json "$out/$dataset.json"
  mmdiff preprocess $dataset --data "$out/$dataset" "$out/records/$dataset"
  for strategy in random difference_body difference_face; do
    mmdiff pretrain --config configs/$dataset.py:$strategy --workdir "$out/runs/$dataset/$strategy" $tiny \
      --config.data.records="$out/records/$dataset" --config.data.tokenizer="$tokenizer"
    mmdiff probe --config configs/probe_$dataset.py --checkpoint "$out/runs/$dataset/$strategy" \
      --workdir "$out/probes/$dataset/$strategy"
  done
done
mmdiff probe --config configs/probe_tvqa.py --mode finetune --checkpoint "$out/runs/tvqa/difference_body" \
  --workdir "$out/probes/tvqa/finetuned" --config.probe.seeds=2 --config.train.epochs=2
mmdiff report "$out/runs" "$out/probes" --out "$out/report"
