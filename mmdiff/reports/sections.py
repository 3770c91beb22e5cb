"""Comparisons in, the parts of the report out: the words around the tables and pictures."""

from mmdiff.reports import paper, tables
from mmdiff.reports.analysis import SEED, Hidden, Pair
from mmdiff.reports.collect import Collected, Probe, Run
from mmdiff.reports.page import Section
from mmdiff.reports.plots import COLOURS, Curve, epoch_curves, loss_curves
from mmdiff.reports.significance import CONFIDENCE, RESAMPLES

CURVES = ["loss", "accuracy", "hidden_inside_person"]  # of continued pretraining

ACCURACY = """
Accuracy of the joint prediction, from audio and subtitles together, on the held-out questions: mean ± standard
deviation over the probe's seeds, of one continued model a row. Coverage is the share of the annotated validation
questions that the records hold. Linear: the encoders are frozen and a linear head is trained; finetune: all weights are
trained. Epoch and learning rate were chosen on the validation questions themselves, or on train: on training records that
were held out. A dash stands for what is not known.

The paper's cells (arXiv {arxiv}; those without a deviation are from its Tables 5 and 6, the others from Table 1) are over
{trials} trials with its own weights and data. They stand there for orientation.
"""
PAIRED_TESTS = """
Could a difference be an accident of which questions were asked? The sample is the questions: each one's score is the
share of seeds that got it right, and two strategies are compared on the same questions. The {confidence:.0%} interval is
the percentile bootstrap's over questions; p is the two-sided sign-flip permutation test's, of no difference; each is from
{resamples:,} resamples (seed {seed}). Holm's correction is over the pairs of one table; the intervals are not corrected.

Not covered: another run of continued pretraining might differ (one run stands for its strategy), and questions about one
clip count as independent, which makes intervals too narrow and p too small where a clip has many.
"""
CURVES_TEXT = """
The losses of two strategies are of different tasks, and so is how often the hidden place was told: neither can be compared
between strategies.
"""
HIDDEN = """
Which share of the hidden patches lay inside boxes of people (the paper's Table 2), as the run's log has it. Under random
masking that is the share of the frames that people cover. The boxes are those of the records, and depend on what looked for
people.
"""
BOXES = "Accuracy with difference masking of faces or of bodies, beside random masking (the paper's Table 5)."
SOURCES = """
Steps are those of the run that made a probe's checkpoint, where it is among the folders given. Records are named by a
digest of their content.
"""


def accuracy(groups: dict[str, list[Probe]], main: dict[str, list[dict]]) -> Section:
    """The main tables, by title, and what the joint accuracies are made of."""
    facts = paper.facts()
    notes = dict.fromkeys(paper.dataset(probes[0].dataset).note for probes in groups.values())
    text = "\n\n".join([ACCURACY.format(arxiv=facts["arxiv"], trials=facts["trials"]), *notes])
    shown = dict(main)
    for title, probes in groups.items():
        shown[f"{title}: each prediction, and what was chosen"] = tables.view_table(probes)
    return Section("Accuracy", text if groups else "Not measured: no probe was given.", [], None, shown)


def paired_tests(pairs: dict[str, list[Pair]], refused: list[str]) -> Section:
    """One table for each family of pairs; `refused` says which were not compared."""
    text = "Not measured: no two strategies answered the same questions in the same way."
    if pairs:
        text = PAIRED_TESTS.format(confidence=CONFIDENCE, resamples=RESAMPLES, seed=SEED)
    shown = {title: tables.paired_table(family) for title, family in pairs.items()}
    return Section("Is a difference more than chance?", "\n\n".join([text, *refused]), [], None, shown)


def curves(groups: dict[str, list[Probe]], by_epoch: dict[str, Curve], runs: list[Run]) -> Section:
    """Pictures of the runs of each dataset and of the probes of each table."""
    images = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        for shown in _apart([run for run in runs if run.dataset == dataset and run.lines]):
            caption = (
                f"Continued pretraining, {tables.dataset_title(dataset, None)}. Lines: training, marks: validation."
            )
            try:
                images.append((caption, loss_curves({_named(run): run.lines for run in shown}, CURVES)))
            except ValueError:  # lines without a finite number
                continue
    for title, probes in groups.items():
        for shown in _apart([probe for probe in probes if by_epoch[probe.path].epoch]):
            caption = (
                f"Probes, {title}. Validation accuracy after each epoch at the chosen learning rate: the mean over seeds "
                "and one standard deviation, as far as every seed was trained."
            )
            drawn = {_named(probe): by_epoch[probe.path] for probe in shown}
            images.append((caption, epoch_curves(drawn, shown[0].chance)))
    return Section("Curves", CURVES_TEXT if images else "Not measured: no folder holds a curve.", images, None)


def hidden(rows: list[Hidden]) -> Section:
    """Table 2, for each dataset."""
    shown = {}
    for row in rows:
        shown.setdefault(tables.dataset_title(row.run.dataset, None), []).append(row)
    return Section(
        "What masking hid",
        HIDDEN if rows else "Not measured: no finished run of continued pretraining was given.",
        [],
        None,
        {title: tables.hidden_table(rows) for title, rows in shown.items()},
    )


def boxes(groups: dict[str, list[Probe]]) -> Section:
    """Table 5, for the questions that a difference masking was probed on."""
    shown = {
        title: tables.box_table(probes)
        for title, probes in groups.items()
        if any(probe.strategy in ("difference_face", "difference_body") for probe in probes)
    }
    return Section("Face or body", BOXES if shown else "Not measured: no such probe was given.", [], None, shown)


def sources(found: Collected, run_of: dict[str, Run]) -> Section:
    """Every folder behind the numbers."""
    shown = tables.source_tables(found.probes, found.runs, run_of)
    return Section("Where each number comes from", SOURCES, [], None, shown)


def left_out(found: Collected) -> Section:
    """Every folder, or part of one, that is behind none."""
    rows = [{"folder": path, "why": why} for path, why in found.left_out]
    return Section("Left out", "" if rows else "Nothing: all that was given could be read.", [], rows)


def _named(measured: Run | Probe) -> str:
    return f"{paper.title(measured.strategy)}: {measured.name}"


def _apart(members: list) -> list[list]:
    """As many to a picture as there are colours."""
    return [members[start : start + len(COLOURS)] for start in range(0, len(members), len(COLOURS))]
