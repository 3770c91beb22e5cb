"""Continued pretraining on a folder of videos.

    mmdiff preprocess VIDEOS RECORDS
    mmdiff pretrain --config configs/video_folder.py:difference --workdir RUN \\
        --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json \\
        --config.model.checkpoint=base.ckpt

The argument after the colon is the masking strategy: `random`, `difference_body`, `difference_face`, `difference_both`,
`attn`, `mst`, `clip`, or one of your own (docs/masking.md). The numbers are those of the paper's runs on TVQA
(arXiv 2305.14577, table 4, and the official scripts): 20 epochs, of which a small folder may want more
(--config.train.epochs=100, or --config.train.steps=1000).
"""

from mmdiff.training.config import PretrainConfig, paper_pretraining


def get_config(strategy: str = "difference") -> PretrainConfig:
    return paper_pretraining(strategy)
