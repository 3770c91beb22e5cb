"""The label of a box in, how similar it is to the anchors out."""

PERSON = "person"  # the anchor that every part of a person is, whatever name its label gives


def label_weight(label: str, part: str, anchors: tuple[str, ...]) -> float:
    """1 where the label is one of the anchors, in any case, or where the box is of a person and "person" is one.

    With the anchor "person" this is the paper's setting for video (arXiv 2305.14577, section 4.2). Boxes that people
    drew are labelled with names: the anchor "person" means them all, the anchor "Sheldon" one of them.
    """
    named = {anchor.casefold() for anchor in anchors}
    return float(label.casefold() in named or (part != "object" and PERSON in named))
