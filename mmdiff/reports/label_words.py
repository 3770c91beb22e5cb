"""A task's labels and a text's words in, which words are of a label's stem out."""

import re
from collections.abc import Iterable, Sequence

# Particles that texts write apart: "DOWNREGULATOR" is "down-regulates" there.
PARTICLES = ("down", "up")
LETTERS = re.compile(r"[^\W\d_]+")
HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # "CompareOr|Contrast", "HTML|Page"
INFLECTIONS = ("", "s", "es", "e", "ed", "ing")
DERIVATIONS = (
    "or", "ors", "er", "ers", "ory", "ion", "ions", "ison", "isons", "ive", "ity", "ities", "ate", "ates", "ated", "ating",
    "ator", "ators", "ation", "ations", "ative",
)  # fmt: skip
SHORTEST, SHORTEST_DERIVED = 2, 4  # letters of a stem: "us" of use, uses, using; "inhibit" of inhibitor and inhibition


def label_pieces(label: str, left_out: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The words of a label's name, casefolded: "CompareOrContrast" is compare, or, contrast.

    Those in `left_out` are left out; a particle is taken off as well, so that "DOWNREGULATOR" is downregulator, regulator.
    """
    pieces = [piece.casefold() for letters in LETTERS.findall(label) for piece in HUMP.split(letters)]
    for piece in list(pieces):
        pieces += [
            piece.removeprefix(particle)
            for particle in PARTICLES
            if piece.startswith(particle) and len(piece) >= len(particle) + SHORTEST_DERIVED
        ]
    return tuple(dict.fromkeys(piece for piece in pieces if piece not in left_out))


def same_stem(first: str, second: str) -> bool:
    """Whether two words, casefolded, differ in their endings alone: inhibitor and inhibits, use and using."""
    if first == second:
        return True
    common = 0
    while common < min(len(first), len(second)) and first[common] == second[common]:
        common += 1
    for length in range(common, SHORTEST - 1, -1):
        endings = INFLECTIONS + (DERIVATIONS if length >= SHORTEST_DERIVED else ())
        if first[length:] in endings and second[length:] in endings:
            return True
    return False


def words_of_labels(
    labels: Sequence[str], words: Iterable[str], left_out: frozenset[str] = frozenset()
) -> dict[str, tuple[str, ...]]:
    """Of each label the words of its stem, or of one of its pieces', in the order given."""
    words = [word for word in words if word not in left_out]
    pieces = {label: label_pieces(label, left_out) for label in labels}
    stems = {piece: {word for word in words if same_stem(piece, word)} for of in pieces.values() for piece in of}
    return {
        label: tuple(word for word in words if any(word in stems[piece] for piece in of))
        for label, of in pieces.items()
    }
