"""Comparisons in, the parts of the report out: the words around the tables and pictures."""

from mmdiff.reports import paper, tables
from mmdiff.reports.analysis import SEED, Pair
from mmdiff.reports.collect import Collected, Probe, Run
from mmdiff.reports.hidden_share import Hidden
from mmdiff.reports.page import Section
from mmdiff.reports.plots import COLOURS, Counts, Curve, distributions, epoch_curves, loss_curves
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
Could a difference be an accident of which questions were asked? The sample is the questions: each one's score is the
share of seeds that got it right, and two strategies are compared on the same questions. The {confidence:.0%} interval is
the percentile bootstrap's over questions; p is the two-sided sign-flip permutation test's, of no difference; each is from
{resamples:,} resamples (seed {seed}). Holm's correction is over the pairs of one table; the intervals are not corrected.

Not covered: another run of continued pretraining might differ (one run stands for its strategy), and questions about one
clip count as independent, which makes intervals too narrow and p too small where a clip has many.
"""
CURVES_TEXT = """
The losses of two strategies are of different tasks, and so is how often the hidden place was told: neither can be compared
between strategies. The masked loss is the part of the loss that is of hidden places; hidden pools are the targets of a
window.
"""
HIDDEN = """
Which share of the hidden patches lay inside boxes of people (the paper's Table 2): of all hidden patches of the windows
where the run counted them, else as its log has it. Under random masking that is the share of the frames that people cover.
The boxes are those of the records, and depend on what looked for people.
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
        for start in range(0, len(counted) if several else 0, ROWS_IN_A_PICTURE):
            drawn = [
                Counts(
                    run.title,
                    run.name if titles.count(run.title) > 1 else "",
                    run.targets.targets,
                    f"unit {run.unit or 'unknown'}",
                )
                for run in counted[start : start + ROWS_IN_A_PICTURE]
            ]
            images.append((f"Targets in each window, {title}.", distributions(drawn, "targets in a window")))
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
    """For each dataset where it is so, how far apart runs with the unit "patch" are."""
    found = []
    for dataset in dict.fromkeys(row.run.dataset for row in rows):
        here = [row for row in rows if row.run.dataset == dataset]
        counted = sorted((row for row in here if row.targets and row.run.unit == "patch"), key=lambda r: r.targets.mean)
        title = tables.dataset_title(dataset, None)
        if len(counted) > 1 and counted[0].targets.mean < counted[-1].targets.mean:
            least, most = counted[0], counted[-1]
            found.append(
                f'{title}: runs with the unit "patch" have from {least.targets.mean:,.0f} targets a window '
                f"({least.run.title}) to {most.targets.mean:,.0f} ({most.run.title})."
            )
        digests = {row.run.records for row in here if row.targets}
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


def _apart(members: list) -> list[list]:
    """As many to a picture as there are colours."""
    return [members[start : start + len(COLOURS)] for start in range(0, len(members), len(COLOURS))]
