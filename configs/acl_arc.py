"""Continued pretraining on the 1,688 training texts of ACL-ARC (citation intents; SciBERT's `citation_intent`).

    mmdiff pretrain --config configs/acl_arc.py:difference --workdir RUN \\
        --config.data.corpus=citation_intent --config.model.checkpoint=roberta-base
    mmdiff probe --config configs/probe_acl_arc.py:finetune --checkpoint RUN --workdir PROBE

The argument after the colon is what is masked: `random_token`, `random_word`, `difference`, `difference_centroid`,
`difference_token`, `attn`, `mst`, `selective`, `entity`, `salient_span`, `span`, `pmi`, `mslm`, `dga`, or a strategy of
your own (docs/text.md); `entity`, `salient_span` and `mslm` need masking.entities, which ACL-ARC has no tags for. Learning rate
1e-4, 150 epochs, patience 20, a quarter of the tokens and 20 anchors are the paper's (arXiv 2305.14577, table 4 and section
4.1), batches of 512 texts and an evaluation every 30 updates its code's. Anchors are found by the
paper's TF-ICF in a shortlist (docs/text.md); by TF-ICF alone with --config.anchors.shortlist=0 --config.anchors.min_count=30.

What the paper's finetuning finds afterwards (table 1, macro F1 in percent): random words 62.05 (2.21), random tokens 63.74
(1.97), MST 65.61, AttnMask 66.30, DGA 67.20, Selective Masking 69.06, EntityBERT 71.09, Salient Span 71.94, difference
masking 74.04 (2.01), with the centroid 69.02, by tokens 65.01.
"""

from mmdiff.training.text_config import TextPretrainConfig, paper_text_pretraining


def get_config(method: str = "difference") -> TextPretrainConfig:
    return paper_text_pretraining(method, texts=1_688)
