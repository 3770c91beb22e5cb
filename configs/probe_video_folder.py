"""Linear probing of a continued model on the questions of its folder of videos.

    mmdiff probe --config configs/probe_video_folder.py --checkpoint RUN --workdir PROBE

RUN is the folder of a `mmdiff pretrain`; its records, vocabulary and sizes are used. A checkpoint file works too: then
give --config.data.records, --config.data.tokenizer and --config.model.rows and columns.
"""

from mmdiff.probing.linear_probe import ProbeConfig


def get_config() -> ProbeConfig:
    return ProbeConfig()
