"""Probing of a model on the questions of its folder of videos.

    mmdiff probe --config configs/probe_video_folder.py --checkpoint RUN --workdir PROBE
    mmdiff probe --config configs/probe_video_folder.py:finetune --checkpoint RUN --workdir FINETUNED

RUN is the folder of a `mmdiff pretrain`; its records, vocabulary and sizes are used. A checkpoint file works too: then
give --config.data.records, --config.data.tokenizer and --config.model.rows and columns.

The argument after the colon is what trains: `linear` heads (the default), everything (`finetune`), or everything by the
official code's recipe (`official_code`). The numbers are the paper's (arXiv 2305.14577, table 4): learning rate 5e-6 for
finetuning, 20 epochs, patience 5; the paper has no numbers for other people's videos.
"""

from mmdiff.probing.config import ProbeConfig, probing


def get_config(argument: str = "linear") -> ProbeConfig:
    return probing(argument, official_epochs=20)
