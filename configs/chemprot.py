"""Continued pretraining on the 4,169 training texts of ChemProt (relations of chemicals and proteins).

    mmdiff pretrain --config configs/chemprot.py:difference --workdir RUN \\
        --config.data.corpus=chemprot --config.model.checkpoint=roberta-base
    mmdiff probe --config configs/probe_chemprot.py:finetune --checkpoint RUN --workdir PROBE

The argument after the colon is what is masked, as in configs/acl_arc.py. The markers `<< >>` and `[[ ]]` around the two
entities are read by the model and never masked. A sentence comes once for each pair of its entities, 2.5 times on average:
--config.data.distinct=true takes each once.

What the paper's finetuning finds afterwards (table 1, accuracy in percent): DGA 70.67 (0.30), random words 81.90 (0.51),
EntityBERT 82.04, Salient Span 82.41, random tokens 82.82 (0.23), Selective Masking 82.94, MST 83.17, AttnMask 83.53,
difference masking 83.94 (0.39), with the centroid 83.66, by tokens 82.24.
"""

from mmdiff.training.text_config import TextPretrainConfig, paper_text_pretraining


def get_config(method: str = "difference") -> TextPretrainConfig:
    config = paper_text_pretraining(method, texts=4_169)
    config.objective.end_task_metric = "accuracy"
    return config
