"""Paired tests: a difference that is there is found, and one that is not is not."""

import numpy as np
import pytest

from mmdiff.reports.significance import answers_sample, compare_samples, holm, same_questions


def paired_test(first: np.ndarray, second: np.ndarray, videos: np.ndarray | None = None, **options):
    """The test of two models' shares of right answers; without `videos` each question is about its own."""
    ids = np.arange(len(first))
    videos = ids if videos is None else videos
    return compare_samples(answers_sample(ids, videos, first), answers_sample(ids, videos, second), **options)


def shares(rng, accuracy: float, questions: int, seeds: int = 5) -> np.ndarray:
    """What share of the seeds got each question right, where every question is as hard as every other."""
    return rng.binomial(seeds, accuracy, questions) / seeds


def test_a_difference_that_is_there_is_found():
    rng = np.random.default_rng(0)
    found = paired_test(shares(rng, 0.75, 400), shares(rng, 0.6, 400), seed=0, resamples=999)
    assert found.p_value < 0.01
    assert 0 < found.low < found.difference < found.high
    assert found.low < 0.15 < found.high
    assert found.clusters == 400


def test_p_values_of_no_difference_are_uniform_and_its_intervals_cover_zero():
    rng = np.random.default_rng(1)
    tests = [paired_test(shares(rng, 0.7, 60), shares(rng, 0.7, 60), seed=i, resamples=199) for i in range(400)]
    p_values = np.array([test.p_value for test in tests])
    # Four standard errors of a share of 400; ties make the test a little too careful, never too bold.
    for level in (0.05, 0.25, 0.5):
        error = 4 * np.sqrt(level * (1 - level) / 400)
        assert level - 0.08 - error < np.mean(p_values <= level) < level + error
    assert 0.95 - 4 * np.sqrt(0.95 * 0.05 / 400) < np.mean([test.low <= 0 <= test.high for test in tests])


def test_pairing_sees_what_is_hard_for_both():
    """Both models know the same questions; one of them knows ten more."""
    hard = np.random.default_rng(2).random(500)
    first, second = (hard < 0.52).astype(float), (hard < 0.50).astype(float)
    assert paired_test(first, second, seed=0, resamples=999).p_value < 0.05
    unpaired = paired_test(first, np.random.default_rng(3).permutation(second), seed=0, resamples=999)
    assert unpaired.p_value > 0.05
    assert unpaired.difference == pytest.approx(first.mean() - second.mean())


def test_a_test_is_the_same_every_time_and_turns_around_with_its_models():
    rng = np.random.default_rng(4)
    first, second = shares(rng, 0.7, 100), shares(rng, 0.6, 100)
    found = paired_test(first, second, seed=0, resamples=199)
    assert found == paired_test(first, second, seed=0, resamples=199)
    assert paired_test(second, first, seed=0, resamples=199).difference == pytest.approx(-found.difference)


def test_models_that_never_differ_are_no_evidence():
    same = np.array([0.0, 1.0, 0.4])
    assert paired_test(same, same, seed=0, resamples=99)[:4] == (0.0, 0.0, 0.0, 1.0)


def test_one_video_is_no_sample():
    with pytest.raises(ValueError, match="all is about 1 video or document: a test needs two or more"):
        paired_test(np.ones(3), np.zeros(3), videos=np.zeros(3), seed=0)


def correlated_answers(rng, videos: int = 40, questions: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right answers of two equally good models, each of which understands some videos and not others; and the videos."""
    video = np.repeat(np.arange(videos), questions)
    logits = 0.8 + rng.normal(0, 1.2, (2, videos))
    first, second = rng.random((2, len(video))) < 1 / (1 + np.exp(-logits))[:, video]
    return first.astype(float), second.astype(float), video


def test_correlated_questions_reject_a_true_null_in_5_percent_of_cases_when_videos_are_the_sample():
    rng, trials = np.random.default_rng(5), 300
    of_questions = of_videos = covered = 0
    for trial in range(trials):
        first, second, video = correlated_answers(rng)
        of_questions += paired_test(first, second, seed=trial, resamples=99).p_value <= 0.05
        found = paired_test(first, second, video, seed=trial, resamples=199)
        of_videos += found.p_value <= 0.05
        covered += found.low <= 0 <= found.high
    # Four standard errors of 5% of 300 are 5.0 points; questions as the sample reject about 30%.
    assert of_questions / trials > 0.2
    assert 0.02 <= of_videos / trials <= 0.08
    assert 0.90 <= covered / trials


def test_videos_with_many_questions_count_for_all_of_them():
    videos = np.array([0, 0, 0, 1, 2])
    found = paired_test(np.array([1.0, 1, 1, 0, 0]), np.array([0.0, 0, 0, 1, 0]), videos, seed=0, resamples=99)
    assert (found.difference, found.clusters) == (pytest.approx(2 / 5), 3)


def test_questions_are_matched_by_id_and_others_are_refused():
    ids = np.array(["b", "a", "c"])
    order, other = same_questions(ids, ids[::-1])
    assert list(ids[order]) == list(ids[::-1][other]) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="not the same questions: 3 and 2 were answered, 1 by both"):
        same_questions(ids, np.array(["a", "d"]))
    with pytest.raises(ValueError, match="twice"):
        same_questions(np.array(["a", "a"]), np.array(["a", "a"]))


def test_holm_is_the_textbooks():
    # Holm, 1979: sorted, times what is left to test, never falling, never above 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
