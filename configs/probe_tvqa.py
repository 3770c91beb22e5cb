"""Probing on TVQA: which of five answers, joint accuracy on the validation questions.

    mmdiff preprocess tvqa --data TVQA RECORDS
    mmdiff probe --config configs/probe_tvqa.py --checkpoint RUN --workdir PROBE
    mmdiff probe --config configs/probe_tvqa.py:finetune --checkpoint RUN --workdir FINETUNED
    mmdiff probe --config configs/probe_tvqa.py:official_code --checkpoint RUN --workdir OFFICIAL

RUN is the folder of a `mmdiff pretrain --config configs/tvqa.py:...`. To probe a model that was not continued, give its
file as --checkpoint, with --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json.

The paper (arXiv 2305.14577, table 1; mean and deviation of five seeds, in percent; chance is 20):

    random masking 73.75 (0.31)   AttnMask 81.57 (0.12)   MST 81.14 (0.30)   difference masking 81.73 (1.13)
    table 5: difference masking of bodies 81.73, of faces 81.51

The paper says that the backbone is frozen and a linear classifier trained, with learning rate 5e-6, 20 epochs and
patience 5 (table 4). Its code trains every weight, for 3 epochs: that is `official_code`. `linear` really freezes, and
chooses among learning rates that suit a single projection.
"""

from mmdiff.probing.config import ProbeConfig, probing


def get_config(argument: str = "linear") -> ProbeConfig:
    return probing(argument, official_epochs=3)
