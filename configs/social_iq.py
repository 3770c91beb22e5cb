"""Continued pretraining on the training videos of Social-IQ 1.0.

    mmdiff preprocess social_iq --data SOCIAL_IQ RECORDS
    mmdiff pretrain --config configs/social_iq.py:difference_body --workdir RUN \\
        --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json \\
        --config.model.checkpoint=base_resadapt.ckpt
    mmdiff probe --config configs/probe_social_iq.py --checkpoint RUN --workdir PROBE

The argument after the colon is the masking strategy: `random`, `difference_body`, `difference_face`, `difference_both`,
`attn`, `mst`, `clip`, or one of your own (docs/masking.md).
Learning rate 5e-6, 20 epochs, patience 5 and a quarter of the patches are the paper's (arXiv 2305.14577, table 4 and
section 4.2), batch 8 and half an epoch of warm-up its code's. The code's epochs go over all questions, ours over all
videos.

What the paper's probe finds afterwards (tables 1, 5 and 6, percent): random 69.05 (0.52), MST 68.37 (0.49), AttnMask 70.18
(0.71), CLIP 68.75, difference masking of bodies 71.37 (0.58), of faces 69.13.
"""

from mmdiff.training.config import PretrainConfig, paper_pretraining


def get_config(strategy: str = "difference") -> PretrainConfig:
    return paper_pretraining(strategy)
