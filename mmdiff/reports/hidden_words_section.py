"""Runs on text in, the part of the report that shows which words their masks hid out."""

from collections.abc import Sequence

import numpy as np

from mmdiff.reports import text_paper
from mmdiff.reports.hidden_words import OFTEN, STOP_WORDS, HiddenWords, Sample, Share
from mmdiff.reports.hidden_words_plot import Hidden, hidden_words
from mmdiff.reports.page import Piece, Section, ShadedText
from mmdiff.reports.tables import NONE
from mmdiff.reports.text_results import TextRun

DRAWN, FARTHEST = 24, 15  # words of a panel: of bubbles, and beyond chance
NAMED = 10  # words in a cell of a table
MOST = 100  # words that count as the most hidden
ROWS = 4  # methods in a picture
TEXTS, LONGEST = 4, 70  # texts that are shown, and words of each
SHADES = 5

WORDS = f"""
What the masks, as drawn for the first step, hid of the training texts (the paper's Figure 3): of each method the run with
the lowest seed. A disc's area is how often the word was hidden, its colour how often in parts of chance: the share of the
word's occurrences that was hidden, divided by the share of all words that was. All words are punctuation, too: a method
that seldom hides that is beyond chance with most others.

Left out of the pictures are words of English grammar, such as articles, pronouns, prepositions and auxiliaries, et al. and the
like ({len(STOP_WORDS)} words), and what has fewer than two letters; the first table says what share of the hidden words they
make. Beyond chance are shown the words that occur {OFTEN} times or more and of which that is surest, by the lower end of the
line: a 95 % interval, as if each occurrence were drawn on its own. Of hundreds of words some lie beyond
chance by luck: compare with random words.
"""
LABELS = f"""
Do masks hide the words that the task is about? Those of a label differ from a word of its name in their endings alone,
whatever the case: inhibits and inhibition are of INHIBITOR. Shares are of all words, punctuation too; the most hidden are
the {MOST} words hidden most often, but for those of grammar.
"""
FIGURE_3 = """
The paper's Figure 3, in which sizes cannot be read, shows as most masked of {title}: {words}. It sets them beside {what}:
{others}.
"""
COMMON = "What random words hide as often tells nothing of difference masking: common words are hidden often by every method."
SAMPLES = """
Training texts as each method masked them, up to the last word that the model reads. Hidden words are marked, in colour or, in
documents without, in bold. The colour says how similar a word is to the anchors: each of the five is that of a fifth of the
words shown. Words that were left are underlined where they are of the most similar fifth. A method that looks at no anchors
is coloured by the similarities of one that does, where there is such a run: so one sees what it passes by. Runs of one seed
draw alike: what differs between them is mostly the method's doing.
"""


def hidden_words_parts(runs: Sequence[TextRun]) -> list[Section]:
    """Pictures, the words of labels, and texts, of each corpus."""
    datasets: dict[str, dict[str, TextRun]] = {}
    for run in runs:  # in the order of their seeds
        if run.hidden:
            datasets.setdefault(text_paper.text_dataset(run.dataset).title, {}).setdefault(run.title, run)
    if not datasets:
        return []
    return [_words(datasets), *_labels(datasets), *_texts(datasets)]


def hidden_words_json(found: HiddenWords) -> dict:
    """What the report says of a run, as shares."""
    return {
        "chance": found.chance,
        "stop_words": _share_json(found.share(STOP_WORDS)),
        "most_hidden": [found.standing(word)._asdict() for word in found.content[:MOST]],
        "beyond_chance": [standing._asdict() for standing in found.beyond_chance(FARTHEST)],
        "labels": {label: _share_json(share) for label, share in found.of_labels().items()},
        "any_label": _share_json(found.of_any_label()),
    }


def _share_json(share: Share) -> dict:
    return share._asdict() | {"times": share.times}


def _words(datasets: dict[str, dict[str, TextRun]]) -> Section:
    images, tables = [], {}
    for dataset, runs in datasets.items():
        panels = {
            title: Hidden(
                [found.standing(word) for word in found.content[:DRAWN] if found.hidden[word]],
                found.beyond_chance(FARTHEST),
            )
            for title, found in ((title, run.hidden) for title, run in runs.items())
        }
        for which, part in _apart({title: words for title, words in panels.items() if words.often}):
            caption = f"{dataset}{which}. Left: the words hidden most often. Right: those hidden most surely more often than by chance."
            images.append((caption, hidden_words(part)))
        tables[dataset] = [_words_row(run) for run in runs.values()]
    warnings = anchor_warnings([run for runs in datasets.values() for run in runs.values()])
    return Section("Words that were hidden", "\n\n".join([WORDS, *warnings]), images, None, tables)


def anchor_warnings(runs: Sequence[TextRun]) -> list[str]:
    """A sentence for each corpus and warning of its runs' anchors, each once."""
    said = (
        f"{text_paper.text_dataset(run.dataset).title}: {run.anchors_warning}." for run in runs if run.anchors_warning
    )
    return list(dict.fromkeys(said))


def _apart(members: dict[str, Hidden]) -> list[tuple[str, dict[str, Hidden]]]:
    """At most ROWS to a picture, and which picture of how many it is, " (1 of 2)"."""
    items = list(members.items())
    parts = [dict(items[start : start + ROWS]) for start in range(0, len(items), ROWS)]
    return [(f" ({n} of {len(parts)})" if len(parts) > 1 else "", part) for n, part in enumerate(parts, start=1)]


def _words_row(run: TextRun) -> dict:
    found = run.hidden
    grammar = found.share(STOP_WORDS)
    return {
        "method": run.title,
        "hidden, % of words": f"{100 * found.chance:.1f}",
        "of grammar, % of hidden": f"{100 * grammar.of_hidden:.1f}",
        "of grammar, % of words": f"{100 * grammar.of_all:.1f}",
        "anchors": ", ".join(run.anchors[:NAMED]) + (" …" if len(run.anchors) > NAMED else "") or NONE,
        "run": run.name,
    }


def _labels(datasets: dict[str, dict[str, TextRun]]) -> list[Section]:
    tables, said = {}, []
    for dataset, runs in datasets.items():
        labelled = [run for run in runs.values() if run.hidden.labels]
        if not labelled:
            continue
        paper = text_paper.figure3(dataset)
        if paper:
            words, others = ", ".join(paper.words), ", ".join(paper.others)
            said.append(FIGURE_3.format(title=dataset, words=words, what=paper.beside, others=others))
        tables[dataset] = [_label_row(run, paper) for run in labelled]
        tables[f"{dataset}: times chance, by label"] = _by_label(labelled)
    if not tables:
        return []
    return [
        Section(
            "Are they the task's words?", "\n\n".join([LABELS, *said, *([COMMON] if said else [])]), [], None, tables
        )
    ]


def _label_row(run: TextRun, paper: text_paper.Figure3 | None) -> dict:
    share = run.hidden.of_any_label()
    row = {
        "method": run.title,
        "of labels, % of hidden": f"{100 * share.of_hidden:.2f}",
        "of labels, % of words": f"{100 * share.of_all:.2f}",
        "times chance": _times(share.times),
        f"among the {MOST} most hidden": ", ".join(run.hidden.most_hidden(share.words, MOST)) or "none",
    }
    if paper:
        found = run.hidden.most_hidden(paper.words, MOST)
        row[f"of the paper's words there ({len(paper.words)})"] = f"{len(found)}: {', '.join(found)}" if found else "0"
    return row


def _by_label(runs: Sequence[TextRun]) -> list[dict]:
    shares = {run.title: run.hidden.of_labels() for run in runs}
    labels = dict.fromkeys(label for run in runs for label in run.hidden.labels)
    rows = []
    for label in labels:
        of_run = {title: found[label] for title, found in shares.items() if label in found}
        words = dict.fromkeys(word for share in of_run.values() for word in share.words)
        row = {"label": label, "words of its stem, most hidden first": ", ".join(list(words)[:NAMED]) or "none"}
        row |= {title: _times(of_run[title].times) if title in of_run else NONE for title in shares}
        rows.append(row)
    return rows


def _times(times: float | None) -> str:
    return NONE if times is None else f"{times:.2f}"


def _texts(datasets: dict[str, dict[str, TextRun]]) -> list[Section]:
    shown, legends = [], []
    for dataset, runs in datasets.items():
        samples = {title: {sample.name: sample for sample in run.hidden.samples} for title, run in runs.items()}
        known = [found for found in samples.values() if any(map(_has_similarity, found.values()))]
        bounds = _fifths([word.similarity for found in known for sample in found.values() for word in sample.words])
        names = list(dict.fromkeys(name for found in samples.values() for name in found))[:TEXTS]
        for name in names:
            there = {title: found[name] for title, found in samples.items() if name in found}
            others = [found[name] for found in known if name in found]
            rows = [(title, _pieces(sample, _coloured_as(sample, others), bounds)) for title, sample in there.items()]
            label = next(iter(there.values())).label
            shown.append(ShadedText(f"{dataset}, {name}" + (f": {label}" if label else ""), rows))
        legends.append(_legend(dataset, bounds))
    if not shown:
        return []
    return [Section("Texts as they were masked", SAMPLES, [], None, shaded=shown, legends=legends)]


def _has_similarity(sample: Sample) -> bool:
    return any(word.similarity > 0 for word in sample.words)


def _coloured_as(sample: Sample, others: Sequence[Sample]) -> Sample:
    """The sample whose similarities colour this one: itself, or that of a method that looks at anchors."""
    spans = [word[:2] for word in sample.words]
    alike = [other for other in others if other.text == sample.text and [word[:2] for word in other.words] == spans]
    return sample if _has_similarity(sample) or not alike else alike[0]


def _fifths(similarities: Sequence[float]) -> list[float]:
    """The similarity that each of SHADES shades ends with; [] where none is known."""
    values = [x for x in similarities if x > 0]
    return np.quantile(values, np.arange(1, SHADES + 1) / SHADES).tolist() if values else []


def _pieces(sample: Sample, coloured_as: Sample, bounds: list[float]) -> list[Piece]:
    pieces, before = [], 0
    for word, like in list(zip(sample.words, coloured_as.words, strict=True))[:LONGEST]:
        shade = 1 + int(np.searchsorted(bounds[:-1], like.similarity)) if like.similarity > 0 else 0
        said = f"similarity {like.similarity:.2f}" if shade else ""
        pieces += [Piece(sample.text[before : word.start])] if before < word.start else []
        pieces.append(Piece(sample.text[word.start : word.end], word.hidden, shade, said))
        before = word.end
    return pieces + ([Piece(" …")] if before < len(sample.text.rstrip()) else [])


def _legend(dataset: str, bounds: list[float]) -> list[Piece]:
    """Marked words that say what their colour means."""
    pieces = [Piece(f"{dataset}, similarity: "), Piece("none known", marked=True), Piece(" ")]
    for shade, bound in enumerate(bounds, start=1):
        pieces += [Piece(f"up to {bound:.2f}", marked=True, shade=shade), Piece(" ")]
    return pieces[:-1]
