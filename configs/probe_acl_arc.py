"""Probing on ACL-ARC: what one of six citations is for; macro F1 on the 139 test texts.

    mmdiff probe --config configs/probe_acl_arc.py --checkpoint RUN --workdir PROBE --config.data.corpus=citation_intent
    mmdiff probe --config configs/probe_acl_arc.py:finetune --checkpoint RUN --workdir FINETUNED --config.data.corpus=...
    mmdiff sweep --config configs/acl_arc.py --strategies none,random_word,difference --seeds 5 --out SWEEP \\
        --probe configs/probe_acl_arc.py --config.data.corpus=citation_intent --config.model.checkpoint=roberta-base

RUN is the folder of a `mmdiff pretrain --config configs/acl_arc.py:...`, or of a model as it came. `linear` freezes it and
trains heads; `finetune` trains every weight at 2e-5, as Don't Stop Pretraining did; `paper` at the 1e-6 of table 4.

52 of the 139 test texts are training texts, too: scores without them are reported beside. The paper (arXiv 2305.14577,
table 1; mean and deviation of five seeds): random words 62.05 (2.21), difference masking 74.04 (2.01).
"""

from mmdiff.probing.text_config import TextProbeConfig, text_probing


def get_config(argument: str = "linear") -> TextProbeConfig:
    return text_probing(argument, metric="macro_f1")
