"""Probing on Social-IQ 2.0: which of four answers (chance is 25), joint accuracy on the validation questions.

    mmdiff preprocess social_iq2 --data SOCIAL_IQ_2 RECORDS
    mmdiff probe --config configs/probe_social_iq2.py --checkpoint RUN --workdir PROBE
    mmdiff probe --config configs/probe_social_iq2.py:finetune --checkpoint RUN --workdir FINETUNED
    mmdiff probe --config configs/probe_social_iq2.py:official_code --checkpoint RUN --workdir OFFICIAL

RUN is the folder of a `mmdiff pretrain --config configs/social_iq2.py:...`. To probe a model that was not continued, give
its file as --checkpoint, with --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json.

Social-IQ 2.0 is not in the paper (arXiv 2305.14577): there is no number to compare with. The settings are those of the
paper's table 4 and of the official code for Social-IQ 1.0.
"""

from mmdiff.probing.config import ProbeConfig, probing


def get_config(argument: str = "linear") -> ProbeConfig:
    return probing(argument, official_epochs=20)
