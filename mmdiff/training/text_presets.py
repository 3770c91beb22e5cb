"""What each preset of continued pretraining on text sets, and each method of the paper's tables."""

AUTHORS_ENCODER = "bert-base-uncased"
OFFICIAL_STRATEGIES = ("difference", "random_token", "random_word")  # that `official_code` goes with

# What a preset sets; everything else keeps its default, which is what the paper says. It does not say how words that occur
# once are kept from being anchors: anchors.shortlist is ours (docs/text.md), and anchors.shortlist=0 its equations alone.
TEXT_PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # The authors' AANG code: rank weights from the pooler's output of single words, tokens drawn one by one. They compare
    # words by bert-base-uncased while they train RoBERTa: its folder is asked for.
    "official_code": {
        "masking.ratio": 0.15,
        "masking.weights": "rank",
        "masking.words": "spaces",
        "masking.punctuation": "hidden",
        "masking.whole_words": False,
        "masking.replacement": "80-10-10",
        "masking.static": False,
        "anchors.pool": "pooler",
        "anchors.text_encoder": AUTHORS_ENCODER,
        "objective.end_task": 1.0,
        "optimizer.clip": 1.0,
    },
}

# The rows of the paper's tables, and what each sets: the argument of `configs/acl_arc.py:METHOD`.
TEXT_METHODS: dict[str, dict[str, object]] = {
    "random_token": {"masking.strategy": "random_token"},
    "random_word": {"masking.strategy": "random_word"},
    "difference": {"masking.strategy": "difference"},
    "difference_centroid": {"masking.strategy": "difference", "anchors.compare": "centroid"},
    "difference_token": {"masking.strategy": "difference", "masking.whole_words": False},
    "attn": {"masking.strategy": "attn"},
    "mst": {"masking.strategy": "mst"},
    "selective": {"masking.strategy": "selective"},
    "entity": {"masking.strategy": "entity"},
    "entity_anchors": {"masking.strategy": "entity", "masking.entities": "anchors"},
    "salient_span": {"masking.strategy": "salient_span"},
    "salient_anchors": {"masking.strategy": "salient_span", "masking.entities": "anchors"},
    "salient_filled": {"masking.strategy": "salient_filled"},
    "span": {"masking.strategy": "span", "masking.replacement": "80-10-10"},
    "pmi": {"masking.strategy": "pmi", "masking.replacement": "80-10-10"},
    "mslm": {"masking.strategy": "entity_rates", "masking.replacement": "mask", "objective.weighting": "terms"},
    "mslm_anchors": {
        "masking.strategy": "entity_rates",
        "masking.replacement": "mask",
        "masking.entities": "anchors",
        "objective.weighting": "terms",
    },
    "dga": {
        "masking.strategy": "random_token",
        "masking.replacement": "80-10-10",
        "masking.static": False,
        "objective.soft_masked_gradients": True,
    },
}
