"""Continued pretraining on the training videos of Social-IQ 2.0.

    mmdiff preprocess social_iq2 --data SOCIAL_IQ_2 RECORDS
    mmdiff pretrain --config configs/social_iq2.py:difference_body --workdir RUN \\
        --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json \\
        --config.model.checkpoint=base_resadapt.ckpt
    mmdiff probe --config configs/probe_social_iq2.py --checkpoint RUN --workdir PROBE

The argument after the colon is the masking strategy: `random`, `difference_body`, `difference_face`, `difference_both`,
`attn`, `mst`, `clip`, or one of your own (docs/masking.md).
Learning rate 5e-6, 20 epochs, patience 5 and a quarter of the patches are the paper's (arXiv 2305.14577, table 4 and
section 4.2), batch 8 and half an epoch of warm-up its code's. The code's epochs go over all questions, ours over all
videos.

Social-IQ 2.0 is not in the paper: there is no number to compare with.
"""

from mmdiff.training.config import PretrainConfig, paper_pretraining


def get_config(strategy: str = "difference") -> PretrainConfig:
    config = paper_pretraining(strategy)
    config.train.expected_examples = 987
    return config
