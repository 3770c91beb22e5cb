"""The 20 anchors that the authors of Difference-Masking wrote into their code for each of two corpora.

abwilf/Difference-Masking@3bb9dd6, Unimodal/AANG/AutoSearchSpace/data.py, get_seed_emb. How they were found is not there.
"""

PUBLISHED_ANCHORS = {
    "citation_intent": (
        "charniak", "coreference", "treebank", "parsers", "grammars", "parse", "syntactic", "linguistic", "lexical", "roth",
        "och", "parser", "parsing", "extraction", "chen", "sentences", "phrase", "semantic", "sentence", "dialogue",
    ),
    "chemprot": (
        "inos", "adrenoceptor", "inhibit", "tcdd", "akt", "agonist", "vegf", "caspase", "inhibiting", "ec", "cyclin",
        "microm", "antagonist", "potency", "antagonists", "inhibitory", "potent", "inhibits", "tyrosine", "synthase",
    ),
}  # fmt: skip
