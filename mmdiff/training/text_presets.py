"""What each preset of continued pretraining on text sets, and each method of the paper's tables."""

# What a preset sets; everything else keeps its default, which is what the paper says. It does not say how words that occur
# once are kept from being anchors: anchors.shortlist is ours (docs/text.md), and anchors.shortlist=0 its equations alone.
TEXT_PRESETS: dict[str, dict[str, object]] = {
    "paper": {},
    # The authors' AANG code: rank weights from the pooler's output of single words, tokens drawn one by one.
    "official_code": {
        "masking.ratio": 0.15,
        "masking.weights": "rank",
        "masking.whole_words": False,
        "masking.replacement": "80-10-10",
        "masking.static": False,
        "anchors.pool": "pooler",
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
    "salient_span": {"masking.strategy": "salient_span"},
    "span": {"masking.strategy": "span", "masking.replacement": "80-10-10"},
    "pmi": {"masking.strategy": "pmi", "masking.replacement": "80-10-10"},
    "mslm": {"masking.strategy": "entity_rates", "masking.replacement": "mask", "objective.weighting": "terms"},
    "dga": {
        "masking.strategy": "random_token",
        "masking.replacement": "80-10-10",
        "masking.static": False,
        "objective.soft_masked_gradients": True,
    },
}
