"""Probing on Social-IQ 1.0, joint accuracy on the validation questions.

    mmdiff preprocess social_iq --data SOCIAL_IQ RECORDS
    mmdiff probe --config configs/probe_social_iq.py --checkpoint RUN --workdir PROBE
    mmdiff probe --config configs/probe_social_iq.py:finetune --checkpoint RUN --workdir FINETUNED
    mmdiff probe --config configs/probe_social_iq.py:official_code --checkpoint RUN --workdir OFFICIAL

RUN is the folder of a `mmdiff pretrain --config configs/social_iq.py:...`. To probe a model that was not continued, give
its file as --checkpoint, with --config.data.records=RECORDS --config.data.tokenizer=lowercase_encoder.json. The protocol
of the records (pairs of a right and a wrong answer: chance is 50; one right among four: chance is 25) stands in
probe.json.

The paper (arXiv 2305.14577, table 1; mean and deviation of five seeds, in percent). It does not say how many candidates
a question has:

    random masking 69.05 (0.52)   AttnMask 70.18 (0.71)   MST 68.37 (0.49)   difference masking 71.37 (0.58)
    table 5: difference masking of bodies 71.37, of faces 69.13

The paper says that the backbone is frozen and a linear classifier trained, with learning rate 5e-6, 20 epochs and
patience 5 (table 4). Its code trains every weight: that is `official_code`.
"""

from mmdiff.probing.config import ProbeConfig, probing


def get_config(argument: str = "linear") -> ProbeConfig:
    return probing(argument, official_epochs=20)
