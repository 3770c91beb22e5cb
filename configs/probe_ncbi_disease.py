"""Probing on NCBI-disease: 960 mentions of diseases in 940 test sentences; F1 of whole entities.

    mmdiff probe --config configs/probe_ncbi_disease.py --checkpoint RUN --workdir PROBE --config.data.corpus=NCBI-disease-IOB

As configs/probe_entities.py, with words in larger batches: there are 135,701 of them to train on.
"""

from mmdiff.probing.text_config import TextProbeConfig, text_probing


def get_config(argument: str = "linear") -> TextProbeConfig:
    config = text_probing(argument, metric="micro_f1")
    config.probe.batch_size, config.probe.epochs, config.probe.patience = 256, 20, 5
    return config
