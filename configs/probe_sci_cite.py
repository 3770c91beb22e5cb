"""Probing on SciCite: whether a citation is of background, a method or a result; macro F1 on 1,861 test texts.

    mmdiff probe --config configs/probe_sci_cite.py --checkpoint RUN --workdir PROBE --config.data.corpus=sci-cite

`linear`, `finetune` and `paper` after a colon are as in configs/probe_acl_arc.py. The paper of difference masking does not
report SciCite.
"""

from mmdiff.probing.text_config import TextProbeConfig, text_probing


def get_config(argument: str = "linear") -> TextProbeConfig:
    return text_probing(argument, metric="macro_f1")
