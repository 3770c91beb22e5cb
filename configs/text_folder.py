"""Continued pretraining on a folder of texts: JSON lines, CoNLL (tagged words) or plain text, one text a line.

    mmdiff pretrain --config configs/text_folder.py:difference --workdir RUN \\
        --config.data.corpus=NCBI-disease-IOB --config.model.checkpoint=roberta-base
    mmdiff probe --config configs/probe_entities.py:finetune --checkpoint RUN --workdir PROBE

The argument after the colon is what is masked, as in configs/acl_arc.py. Ten epochs in batches of 32, an evaluation after
each: a start for any corpus; configs/acl_arc.py has the paper's 150 epochs.
"""

from mmdiff.training.text_config import TextPretrainConfig, paper_text_pretraining


def get_config(method: str = "difference") -> TextPretrainConfig:
    config = paper_text_pretraining(method)
    config.train.epochs, config.train.warmup_epochs, config.train.patience = 10, 0.6, 3
    config.train.batch_size, config.train.accumulation = 32, 1
    return config
