"""Continued pretraining on a folder of videos.

    mmdiff preprocess VIDEOS RECORDS
    mmdiff pretrain --config configs/video_folder.py:difference --workdir RUN \\
        --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json \\
        --config.model.checkpoint=base.ckpt

The argument after the colon is the masking strategy: `random`, `difference`, and `difference_body` or
`difference_face` for difference masking that says which boxes. Numbers are those of the paper's runs on TVQA
(arXiv 2305.14577, table 4, and the official scripts).
"""

from mmdiff.training.config import PretrainConfig


def get_config(strategy: str = "difference") -> PretrainConfig:
    config = PretrainConfig()
    name, _, where = strategy.partition("_")
    config.masking.strategy = name
    if where:
        config.masking.where = where
    config.train.steps = 1000
    config.train.batch_size = 8
    config.train.evaluate_every = 100
    config.optimizer.learning_rate = 5e-6
    config.optimizer.warmup_steps = 100
    return config
