"""Results on text in, the parts of the report that are of text out."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mmdiff.reports import text_paper, text_tables
from mmdiff.reports.analysis import SEED, Pair, paired_tests
from mmdiff.reports.hidden_words_section import anchor_warnings, hidden_words_json, hidden_words_parts
from mmdiff.reports.page import Section
from mmdiff.reports.plots import COLOURS, Points, has_curve, loss_curves, loss_limits, scores_against
from mmdiff.reports.significance import CONFIDENCE, RESAMPLES
from mmdiff.reports.text_results import SCORES, Group, Row, TextResults, TextRun

CURVES = ["loss", "masked_loss", "accuracy", "hidden_similarity", "hidden_in_terms"]  # of continued pretraining

SCORED = """
Scores on the test texts, in percent. A row is a method of continued pretraining. Where several runs differ in nothing but
their seed, mean ± standard deviation is over the runs, each of which counts by the mean of its probe's seeds; of one run,
or of a model as it came, it is over the probe's seeds. Linear: the encoder is frozen and linear heads are trained on what it
says; finetune: all weights are trained. Epoch and learning rate are chosen on the validation texts by the first score of
the table, the test texts are only scored.

Micro F1 of classes is the accuracy; macro F1 is the mean over the classes that the test texts hold. Of entities, F1 is
strict: type, first and last word must be right, and accuracy is over words. "Without copies" leaves out test texts that are
training texts too, but for case, white space and entity markers. A dash stands for what is not known.

The paper's cells (arXiv {arxiv}) are over {trials} trials with RoBERTa-base, all weights finetuned. They stand there for
orientation.
"""
PAIRED_TESTS = """
Could a difference be an accident of which texts were tested? Two methods are compared on the same test texts, by the first
score of their table. The sample is the texts; those of one document, where the corpus marks documents, and those that are
the same sentence but for entity markers, move together. The predictions of all runs and seeds of a method are scored
together, which for F1 is not quite the mean of their scores. The {confidence:.0%} interval is the percentile interval of
the bootstrap; p is that of the two-sided permutation test, which exchanges the predictions of two methods text by text, of
no difference; each is from {resamples:,} resamples (seed {seed}). Holm's correction is over the pairs of one table; the
intervals are not corrected.

Not covered: other seeds of continued pretraining might differ.
"""
PER_LABEL = "F1 of each class, or type of entity, with how many test units have it: the mean over runs and their seeds."
SMALL_TABLES = {
    "Nearest anchor or centroid": (
        "table3",
        ("difference_centroid", "difference"),
        ("difference_centroid",),
        "Difference masking by the similarity to the nearest anchor, or to the anchors' centroid (the paper's Table 3).",
    ),
    "Tokens or words": (
        "table7",
        ("difference_token", "difference"),
        ("difference_token",),
        "Difference masking of single tokens, or of whole words (the paper's Table 7).",
    ),
}  # title: the paper's table, its rows, those of which one must have been probed, what is said
ANCHORS = """
Scores of difference masking against K, the number of anchors found (the paper's Figure 4, of which only K = 20, its best,
can be read: the dashed line).
"""
CURVES_TEXT = """
Losses of two methods are of different hidden words: they cannot be compared between methods.
"""


class Tests(NamedTuple):
    """Paired tests by table, and why some were not made."""

    families: dict[str, list[Pair]]
    refused: list[str]


def compare_rows(results: TextResults, progress_bar: bool) -> Tests:
    """Every two rows of each table."""
    wanted = {}
    for group in results.groups:
        having = [row for row in group.rows if all(probe.sample for probe in row.probes)]
        pairs = [(first, second) for second, first in itertools.combinations(having, 2)]
        wanted |= {f"{group.title}: {SCORES[group.metric]}": pairs} if pairs else {}
    return Tests(*paired_tests(wanted, lambda row: row.sample, progress_bar))


def text_parts(results: TextResults, tests: Tests) -> list[Section]:
    """The sections, of what was measured alone."""
    groups = results.groups
    return [
        *([_scores(groups), _tests(tests), _per_label(groups), *_small(groups)] if groups else []),
        *_anchors(results.groups),
        *hidden_words_parts(results.runs),
        *_curves(results.runs),
        _sources(results),
    ]


def text_notes(results: TextResults) -> list[str]:
    """What changes how the numbers are to be read."""
    notes = anchor_warnings(results.runs)
    for dataset in dict.fromkeys(group.dataset for group in results.groups):
        found = next(group.probes[0].duplicates for group in results.groups if group.dataset == dataset)
        title = text_paper.text_dataset(dataset).title
        if found.get("in_train"):
            notes.append(
                f"{title}: {found['in_train']:,} of {found['test']:,} test texts are training texts, too; see the scores "
                "without copies."
            )
    models = sorted({probe.model for group in results.groups for probe in group.probes})
    if models:
        notes.append(f"Models that were continued or probed: {', '.join(models)}. The paper's is RoBERTa-base.")
    notes.extend(_words_hidden(results.runs))
    single = [row.title for group in results.groups for row in group.rows if row.spread(group.metric).count == 1]
    if single:
        notes.append(f"One seed only, which says nothing about spread: {', '.join(dict.fromkeys(single))}.")
    return notes


def _words_hidden(runs: Sequence[TextRun]) -> list[str]:
    """How runs split texts and what they do with punctuation, one note for each way."""
    ways = Counter(
        (run.settings.get("masking.punctuation", "hidden"), run.settings.get("masking.words", "letters"))
        for run in runs
    )
    return [
        f"Punctuation is {punctuation} (masking.punctuation) and words are split by {words} (masking.words) in "
        f"{'all runs' if len(ways) == 1 else f'{count} of {len(runs)} runs'}, whatever the method."
        for (punctuation, words), count in ways.items()
    ]


def main_tables(results: TextResults) -> dict[str, list[dict]]:
    """Table 1 of each group, by title."""
    return {group.title: text_tables.main_table(group) for group in results.groups}


def as_json(results: TextResults, tests: Tests) -> dict:
    """All numbers, as shares but for the paper's; folders are named by their paths."""
    return {
        "groups": [
            {
                "title": group.title,
                "dataset": group.dataset,
                "mode": group.mode,
                "metric": group.metric,
                "rows": [_row_json(row, group) for row in group.rows],
            }
            for group in results.groups
        ],
        "paired_tests": {
            "resamples": RESAMPLES,
            "seed": SEED,
            "confidence": CONFIDENCE,
            "families": {title: [_pair_json(pair) for pair in family] for title, family in tests.families.items()},
            "refused": tests.refused,
        },
        "runs": [
            {
                field.name: getattr(run, field.name)
                for field in dataclasses.fields(run)
                if field.name not in ("lines", "hidden")
            }
            | {"hidden_words": run.hidden and hidden_words_json(run.hidden)}
            for run in results.runs
        ],
        "paper": {name: text_paper.text_facts()[name] for name in ("paper", "arxiv", "trials")},
    }


def _pair_json(pair: Pair) -> dict:
    return {
        "first": pair.first.title,
        "second": pair.second.title,
        **pair.test._asdict(),
        "texts": pair.first.probes[0].texts["test"],
        "p_value_holm": pair.adjusted,
    }


def _row_json(row: Row, group: Group) -> dict:
    cell = text_paper.text_cell(row.method, group.dataset, "table1")
    spreads = {metric: row.spread(metric)._asdict() for metric in SCORES}
    without = {metric: row.spread(metric, deduplicated=True) for metric in SCORES}
    return {
        "method": row.method,
        "title": row.title,
        "runs": len(row.probes),
        "probe_seeds": row.seeds,
        "anchors_found": row.anchors_found,
        "scores": spreads,
        "deduplicated_scores": {metric: found and found._asdict() for metric, found in without.items()},
        "paper_percent": cell and cell._asdict(),
        "probes": [
            {
                "path": probe.path,
                "checkpoint": probe.checkpoint,
                "seed": probe.pretraining_seed,
                "scores": probe.scores,
                "deduplicated_scores": probe.deduplicated,
                "per_label": probe.per_label,
            }
            for probe in row.probes
        ],
    }


def _scores(groups: Sequence[Group]) -> Section:
    facts = text_paper.text_facts()
    notes = dict.fromkeys(text_paper.text_dataset(group.dataset).note for group in groups)
    text = "\n\n".join([SCORED.format(arxiv=facts["arxiv"], trials=facts["trials"]), *filter(None, notes)])
    return Section("Scores on text", text, [], None, {group.title: text_tables.main_table(group) for group in groups})


def _tests(tests: Tests) -> Section:
    text = "Not measured: no two methods have predictions of the same texts."
    if tests.families:
        text = PAIRED_TESTS.format(confidence=CONFIDENCE, resamples=RESAMPLES, seed=SEED)
    shown = {title: text_tables.paired_table(family) for title, family in tests.families.items()}
    return Section("Is a difference on text more than chance?", "\n\n".join([text, *tests.refused]), [], None, shown)


def _per_label(groups: Sequence[Group]) -> Section:
    return Section("Each class", PER_LABEL, [], None, {group.title: text_tables.label_table(group) for group in groups})


def _small(groups: Sequence[Group]) -> list[Section]:
    parts = []
    for heading, (table, methods, wanted, said) in SMALL_TABLES.items():
        shown = {
            group.title: text_tables.small_table(group, methods, table)
            for group in groups
            if any(row.method in wanted for row in group.rows)
        }
        parts += [Section(heading, said, [], None, shown)] if shown else []
    return parts


def _anchors(groups: Sequence[Group]) -> list[Section]:
    """Figure 4, where a method was run with more than one K."""
    shown, images = {}, []
    for group in groups:
        found: dict[str, set[int]] = {}
        for row in group.rows:
            if row.anchors_found:
                found.setdefault(row.method, set()).add(row.anchors_found)
        rows = [row for row in group.rows if len(found.get(row.method, ())) > 1]
        if not rows:
            continue
        shown[group.title] = text_tables.anchors_table(rows, group.metric)
        lines: dict[str, list[Row]] = {}
        for row in sorted(rows, key=lambda row: row.anchors_found):
            lines.setdefault(text_tables.titled(row.method), []).append(row)
        points = {
            name: Points(
                [row.anchors_found for row in members],
                [100 * row.spread(group.metric).mean for row in members],
                [100 * (row.spread(group.metric).std or 0.0) for row in members],
            )
            for name, members in lines.items()
        }
        cell = text_paper.text_cell("difference", group.dataset, "table1")
        level = ("paper, K = 20", cell.mean) if cell else None
        picture = scores_against(points, f"{SCORES[group.metric]}, %", "anchors found (K)", level)
        images.append((f"{group.title}: mean and standard deviation against K.", picture))
    return [Section("How many anchors", ANCHORS, images, None, shown)] if shown else []


def _curves(runs: Sequence[TextRun]) -> list[Section]:
    images = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        title = text_paper.text_dataset(dataset).title
        drawn = [run for run in runs if run.dataset == dataset and has_curve(run.lines, CURVES)]
        firsts = list({run.title: run for run in reversed(drawn)}.values())[::-1]
        limits = loss_limits([run.lines for run in firsts], CURVES)
        for start in range(0, len(firsts), len(COLOURS)):
            part = firsts[start : start + len(COLOURS)]
            named = {f"{run.title}: {run.name}": run.lines for run in part}
            caption = (
                f"Continued pretraining, {title}, the first seed of each method. Lines: training, marks: validation."
            )
            images.append((caption, loss_curves(named, CURVES, limits)))
    return [Section("Curves of text", CURVES_TEXT, images, None)] if images else []


def _sources(results: TextResults) -> Section:
    shown = {
        "Probes of text": text_tables.probe_table(results.groups),
        "Runs on text": text_tables.run_table(results.runs),
    }
    return Section(
        "Where each number on text comes from", "Texts are named by a digest of their files.", [], None, shown
    )
