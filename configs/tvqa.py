"""Continued pretraining on the 17,435 training clips of TVQA.

    mmdiff preprocess tvqa --data TVQA RECORDS
    mmdiff pretrain --config configs/tvqa.py:difference_body --workdir RUN \\
        --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json \\
        --config.model.checkpoint=base_resadapt.ckpt
    mmdiff probe --config configs/probe_tvqa.py --checkpoint RUN --workdir PROBE

The argument after the colon is the masking strategy: `random`, `difference_body`, `difference_face`, `difference_both`,
`attn`, `mst`, `clip`, or one of your own (docs/masking.md).
Learning rate 5e-6, 20 epochs, patience 5 and a quarter of the patches are the paper's (arXiv 2305.14577, table 4 and
section 4.2), batch 8 and half an epoch of warm-up its code's. The code itself stops after 3 epochs, each over all
questions and not over all clips: --config.train.epochs=21 is as many steps as those 3 of 122,112.

What the paper's probe finds afterwards (tables 1, 5 and 6, percent, chance is 20): random 73.75 (0.31), MST 81.14 (0.30),
AttnMask 81.57 (0.12), CLIP 73.58, difference masking of bodies 81.73 (1.13), of faces 81.51.
"""

from mmdiff.training.config import PretrainConfig, paper_pretraining


def get_config(strategy: str = "difference") -> PretrainConfig:
    config = paper_pretraining(strategy)
    config.train.expected_examples = 17_435
    return config
