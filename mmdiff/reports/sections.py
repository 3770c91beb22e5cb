"""Comparisons in, the parts of the report out: the words around the tables and pictures."""

from mmdiff.reports import paper, tables
from mmdiff.reports.analysis import SEED, Pair
from mmdiff.reports.collect import Collected, Probe, Run
from mmdiff.reports.hidden_share import Hidden
from mmdiff.reports.page import Section
from mmdiff.reports.plots import (
    COLOURS,
    Counts,
    Curve,
    count_limits,
    distributions,
    epoch_curves,
    epoch_limits,
    has_curve,
    loss_curves,
    loss_limits,
)
from mmdiff.reports.significance import CONFIDENCE, RESAMPLES

CURVES = ["loss", "masked_loss", "accuracy", "hidden_pools", "hidden_inside_person"]  # of continued pretraining
ROWS_IN_A_PICTURE = 16

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
Could a difference be an accident of which videos were asked about? The sample is the videos: all questions about one move
together, for they are correlated. Two strategies are compared on the same questions, of which each counts by the share of
seeds that got it right. The {confidence:.0%} interval is the percentile interval of the cluster bootstrap over videos; p is
that of the two-sided permutation test, which flips the signs of the videos' differences, of no difference; each is from
{resamples:,} resamples (seed {seed}). Holm's correction is over the pairs of one table; the intervals are not corrected.

Not covered: another run of continued pretraining might differ (one run stands for its strategy).
"""
CURVES_TEXT = """
The losses of two strategies are of different tasks, and so is how often the hidden place was told: neither can be compared
between strategies. The masked loss is the part of the loss that is of hidden places; hidden pools are the targets of a
window.
"""
HIDDEN = """
Which share of the hidden patches lay inside boxes that match the run's anchors (with the anchor "person" that is the
paper's Table 2, whose cell stands only beside such runs): of all hidden patches of the windows of the run's split where it
counted them, else as its log has it. Under random masking that is the share of the frames that these boxes cover. The
boxes are those of the records, and depend on what looked for them. The budget into matching boxes is what a strategy that
looks at boxes takes from them by choice in the training windows, before the first step: the rest is random masking, for
windows without such boxes hold nothing to choose.
"""
TARGETS = """
A target is a pooled place (2 x 2 patches) that the model has to tell. With the unit "patch", strategies hide as many
patches each and still differ in the number of targets: patches that lie scattered touch more pooled places than patches
that lie together. A task with more targets, each with more of the others to be mistaken for, is another task, so the
losses of such runs cannot be compared, and a strategy may do better for its targets alone. With the unit "pooled" whole
places are hidden, and every strategy has as many.
"""
SMALL_TABLES = {
    "Face or body": (
        "table5",
        ("random", "difference_face", "difference_body"),
        ("difference_face", "difference_body"),
        "Accuracy with difference masking of faces or of bodies, beside random masking (the paper's Table 5).",
    ),
    "Boxes or CLIP": (
        "table6",
        ("clip", "difference_body"),
        ("clip",),
        "Accuracy where CLIP says what to hide and no boxes, beside difference masking (the paper's Table 6).",
    ),
}  # title: the paper's table, its rows, those of which one must have been probed, what is said
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
        # Lines without a finite number are no curve.
        drawn = [run for run in runs if run.dataset == dataset and has_curve(run.lines, CURVES)]
        limits = loss_limits([run.lines for run in drawn], CURVES)
        for which, shown in _apart(drawn):
            caption = f"Continued pretraining, {tables.dataset_title(dataset, None)}{which}. Lines: training, marks: validation."
            images.append((caption, loss_curves({_named(run): run.lines for run in shown}, CURVES, limits)))
    for title, probes in groups.items():
        drawn = [probe for probe in probes if by_epoch[probe.path].epoch]
        limits = epoch_limits([by_epoch[probe.path] for probe in drawn], [probe.chance for probe in drawn])
        for which, shown in _apart(drawn):
            caption = (
                f"Probes, {title}{which}. Validation accuracy after each epoch at the chosen learning rate: the mean over "
                "seeds and one standard deviation, as far as every seed was trained."
            )
            named = {_named(probe): by_epoch[probe.path] for probe in shown}
            images.append((caption, epoch_curves(named, shown[0].chance, limits)))
    return Section("Curves", CURVES_TEXT if images else "Not measured: no folder holds a curve.", images, None)


def hidden(rows: list[Hidden]) -> Section:
    """Table 2, and the targets of each window, for each dataset."""
    datasets: dict[str, list[Hidden]] = {}
    for row in rows:
        datasets.setdefault(tables.dataset_title(row.run.dataset, None), []).append(row)
    shown, images = {}, []
    for title, found in datasets.items():
        shown[title] = tables.hidden_table(found)
        counted = [row.run for row in found if row.run.targets]
        if counted:
            shown[f"{title}: targets"] = tables.target_table(found)
        titles = [run.title for run in counted]
        # Of one window each there is no distribution.
        several = any(len(run.targets.window) > 1 for run in counted)
        limits = count_limits([run.targets.targets for run in counted])
        for which, members in _apart(counted if several else [], ROWS_IN_A_PICTURE):
            drawn = [
                Counts(
                    run.title,
                    run.name if titles.count(run.title) > 1 else "",
                    run.targets.targets,
                    run.unit,
                )
                for run in members
            ]
            caption = f"Targets in each window, {title}{which}."
            images.append((caption, distributions(drawn, "targets in a window", limits)))
    if not rows:
        return Section(
            "What masking hid", "Not measured: no finished run of continued pretraining was given.", [], None
        )
    return Section(
        "What masking hid",
        "\n\n".join([HIDDEN, *([TARGETS] if any(row.targets for row in rows) else []), *_unequal(rows)]),
        images,
        None,
        shown,
    )


def _unequal(rows: list[Hidden]) -> list[str]:
    """For each dataset and content of records where it is so, how far apart runs are."""
    found = []
    for dataset in dict.fromkeys(row.run.dataset for row in rows):
        counted = [row for row in rows if row.run.dataset == dataset and row.targets]
        digests = dict.fromkeys(row.run.records for row in counted)
        title = tables.dataset_title(dataset, None)
        for digest in digests:
            here = sorted((row for row in counted if row.run.records == digest), key=lambda row: row.targets.mean)
            least, most = here[0], here[-1]
            if least.targets.mean < most.targets.mean:
                which = f"{title}, records {digest}" if len(digests) > 1 else title
                found.append(
                    f"{which}: runs have from {least.targets.mean:,.0f} targets a window ({least.run.title}) to "
                    f"{most.targets.mean:,.0f} ({most.run.title})."
                )
        if len(digests) > 1:
            found.append(
                f"{title}: these runs are of different records ({', '.join(sorted(map(str, digests)))}), so that their "
                "windows differ, too."
            )
    return found


def small_tables(groups: dict[str, list[Probe]]) -> list[Section]:
    """Tables 5 and 6, for the questions that one of their strategies was probed on."""
    parts = []
    for heading, (table, methods, wanted, said) in SMALL_TABLES.items():
        shown = {
            title: tables.method_table(probes, methods, table)
            for title, probes in groups.items()
            if any(probe.strategy in wanted for probe in probes)
        }
        parts.append(Section(heading, said if shown else "Not measured: no such probe was given.", [], None, shown))
    return parts


def sources(found: Collected, run_of: dict[str, Run]) -> Section:
    """Every folder behind the numbers."""
    shown = tables.source_tables(found.probes, found.runs, run_of)
    return Section("Where each number comes from", SOURCES, [], None, shown)


def left_out(found: Collected) -> Section:
    """Every folder, or part of one, that is behind none."""
    rows = [{"folder": path, "why": why} for path, why in found.left_out]
    return Section("Left out", "" if rows else "Nothing: all that was given could be read.", [], rows)


def _named(measured: Run | Probe) -> str:
    return f"{measured.title}: {measured.name}"


def _apart(members: list, most: int = len(COLOURS)) -> list[tuple[str, list]]:
    """As many to a picture as there are colours, or `most`, and which picture of how many it is, " (1 of 2)"."""
    parts = [members[start : start + most] for start in range(0, len(members), most)]
    return [(f" ({n} of {len(parts)})" if len(parts) > 1 else "", part) for n, part in enumerate(parts, start=1)]
