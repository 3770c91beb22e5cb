"""The whole path on real footage: a singer with cuts, and a signer without sound."""

import numpy as np
import pytest
import tiny

from mmdiff.data.tokenizer import train_tokenizer
from mmdiff.training.metrics import read_metrics
from mmdiff.training.pretrain import pretrain


@pytest.mark.slow
def test_the_loss_on_real_clips_falls_well_below_its_start(videos, tmp_path):
    from preprocessing.build import Options, preprocess

    (tmp_path / "videos").mkdir()
    for name in ("asl_walk.mkv", "hamilton_short.mp4"):
        (tmp_path / "videos" / name).symlink_to(videos / name)
    options = Options(fps=2.0, segments_per_window=tiny.SEGMENTS, validation_share=0.0, workers=0)
    summary = preprocess(tmp_path / "videos", tmp_path / "records", options, progress=False)
    assert summary.records == {"train": 2} and summary.boxes["body"] > 5
    train_tokenizer([tiny.WORDS], 300, tmp_path / "records" / "tokenizer.json")
    config = tiny.config(tmp_path / "records", log_every=1)
    assert config.masking.strategy == "difference"
    run = pretrain(config, tmp_path / "run", progress_bar=False)
    lines = read_metrics(run / "metrics.jsonl")
    start, end = (np.mean([line["loss"] for line in part]) for part in (lines[:3], lines[-5:]))
    assert end < 0.75 * start
    assert max(line["hidden_inside_person"] for line in lines) > 0.5
