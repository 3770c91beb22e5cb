"""The label of a box in, how similar it is to the anchors out."""


def label_weight(label: str, anchors: tuple[str, ...]) -> float:
    """1 where the label is one of the anchors, in any case; 0 elsewhere.

    With the anchor "person" this is the paper's setting for video (arXiv 2305.14577, section 4.2).
    """
    return float(label.casefold() in {anchor.casefold() for anchor in anchors})
