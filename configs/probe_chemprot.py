"""Probing on ChemProt: which of 13 relations a chemical and a protein have; accuracy, which is micro F1, on 3,469 texts.

    mmdiff probe --config configs/probe_chemprot.py --checkpoint RUN --workdir PROBE --config.data.corpus=chemprot

`linear`, `finetune` and `paper` after a colon are as in configs/probe_acl_arc.py. The test split has none of the class
SUBSTRATE_PRODUCT-OF: macro F1 is over the other twelve. The paper (arXiv 2305.14577, table 1): random words 81.90 (0.51),
difference masking 83.94 (0.39).
"""

from mmdiff.probing.text_config import TextProbeConfig, text_probing


def get_config(argument: str = "linear") -> TextProbeConfig:
    return text_probing(argument, metric="accuracy")
