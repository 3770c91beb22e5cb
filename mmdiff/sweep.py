"""A configuration and methods in, a run and a probe of each method and seed out, and a report of all: `mmdiff sweep`.

Everything is what the other verbs make, in folders of its own: METHOD/seed_N/run and METHOD/seed_N/probe. What is finished
is left as it is; what was killed goes on.
"""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from mmdiff.data.text_corpora import Corpus, read_corpus
from mmdiff.data.text_tasks import task_labels
from mmdiff.errors import UserError
from mmdiff.models.pretrained_text import PretrainedText, read_text_model
from mmdiff.probing.outcome import RESULT
from mmdiff.probing.text_config import TextProbeConfig
from mmdiff.probing.text_probe import probe_text
from mmdiff.reports.report import Written, report
from mmdiff.training import runs
from mmdiff.training.config import differences, parse_config, validate, with_fields
from mmdiff.training.pretrain_text import inputs_digest, pretrain_text, settled
from mmdiff.training.text_config import TextPretrainConfig, within_positions

UNTOUCHED = "none"  # the method that probes the checkpoint as it came
REPORT = "report"

log_line = logging.getLogger(__name__)


def sweep(
    config_file: str,
    methods: Sequence[str],
    seeds: int,
    probe_file: str,
    out: Path,
    fields: Sequence[str] = (),
    probe_fields: Sequence[str] = (),
    progress_bar: bool = True,
) -> Written:
    """Continues pretraining by each method with each seed, probes each run, and reports.

    Args:
      config_file: of pretraining, as configs/acl_arc.py; each method is its argument.
      methods: those, or UNTOUCHED.
      seeds: of pretraining, from 0.
      probe_file: of the probe, with its own argument if it needs one.
      out: the folder of everything, the report too.
      fields: more words of the command line for pretraining, "--config.section.field=value".
      probe_fields: and for the probe; the corpus is that of pretraining where none is given.
      progress_bar: whether there are some.

    Raises UserError, one sentence, before any long work where a method or a field is wrong.
    """
    if seeds < 1:
        raise UserError(f"--seeds {seeds}: a sweep needs at least one")
    if repeated := {name for name in methods if methods.count(name) > 1}:
        raise UserError(f"--strategies names {min(repeated)} twice")
    if ":" in Path(config_file).name:
        raise UserError(f"{config_file}: give the file without an argument; --strategies are its arguments")
    # Any of them, for what all have: the corpus and the checkpoint.
    named = [name for name in methods if name != UNTOUCHED]
    configs = {name: _parse(f"{config_file}:{name}", fields, TextPretrainConfig) for name in named}
    base = next(iter(configs.values()), None) or _parse(config_file, fields, TextPretrainConfig)
    probing = _parse(probe_file, probe_fields, TextProbeConfig)
    probing = with_fields(probing, {"data.corpus": probing.data.corpus or base.data.corpus})
    if not base.model.checkpoint or not base.data.corpus:
        raise UserError("a sweep needs --config.model.checkpoint, the model to begin with, and --config.data.corpus")
    # What is wrong shows now, not behind hours of pretraining.
    for config in configs.values():
        validate(settled(config))
    validate(probing)
    labelled = read_corpus(probing.data.corpus)
    task_labels(labelled)
    corpus, model = read_corpus(base.data.corpus), read_text_model(base.model.checkpoint)
    positions, checkpoint = model.config.longest, base.model.checkpoint
    configs = {name: within_positions(config, positions, checkpoint) for name, config in configs.items()}
    probing = within_positions(probing, positions, checkpoint)
    work = [(name, seed) for seed in range(seeds) for name in named]
    if UNTOUCHED in methods:
        _probe(probing, labelled.digest, Path(base.model.checkpoint), out / UNTOUCHED / "probe", progress_bar)
    for number, (name, seed) in enumerate(work, start=1):
        folder = out / _folder(name) / f"seed_{seed}"
        log_line.info("%d of %d: %s, seed %d", number, len(work), name, seed)
        config = with_fields(configs[name], {"train.seed": seed})
        if not _is_done(folder / "run", config, corpus, model):
            pretrain_text(config, folder / "run", progress_bar)
        _probe(probing, labelled.digest, folder / "run", folder / "probe", progress_bar)
    return report([out], out / REPORT, progress_bar)


def _parse(file: str, fields: Sequence[str], wanted: type):
    return parse_config([f"--config={file}", *fields], wanted)


def _folder(method: str) -> str:
    """A method's name as a folder's: somebody's own is package.module:function."""
    return re.sub(r"[^\w.-]+", "_", method)


def _probe(config: TextProbeConfig, labelled: str, checkpoint: Path, workdir: Path, progress_bar: bool) -> None:
    """Probes what has not been probed so, on texts of the digest `labelled`."""
    if (workdir / RESULT).is_file():
        stored = json.loads((workdir / RESULT).read_text(encoding="utf-8"))
        # Names and digests, not paths: a sweep's folder may have moved.
        same = stored["records"] == labelled and Path(stored["checkpoint"]).name == checkpoint.resolve().name
        if same and not differences(stored["config"], config):
            return
    probe_text(config, checkpoint, workdir, progress_bar)


def _is_done(folder: Path, config: TextPretrainConfig, corpus: Corpus, model: PretrainedText) -> bool:
    """Whether a run of this configuration on these inputs has ended. Another one's folder is refused by the run itself."""
    if not (folder / runs.SUMMARY).is_file() or differences(runs.read_config(folder), config):
        return False
    return (folder / runs.RECORDS).read_text() == inputs_digest(config, corpus, model)
