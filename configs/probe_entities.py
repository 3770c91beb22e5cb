"""Probing on entities in CoNLL files: NCBI-disease, BC5CDR (chemicals, diseases), BC2GM; F1 of whole entities.

    mmdiff probe --config configs/probe_entities.py --checkpoint RUN --workdir PROBE --config.data.corpus=NCBI-disease-IOB

The head tells the IOB2 tag of each word at its first token. An entity counts where its type, first and last word are right,
and only B opens one. `linear`, `finetune` and `paper` after a colon are as in configs/probe_acl_arc.py.
"""

from mmdiff.probing.text_config import TextProbeConfig, text_probing


def get_config(argument: str = "linear") -> TextProbeConfig:
    return text_probing(argument, metric="micro_f1")
