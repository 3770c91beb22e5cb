"""Pictures of few pixels: what is said of them does not depend on how many there are, and making them takes long."""

import pytest

from mmdiff.reports import anchors_plot, hidden_words_plot, mask_gallery, mask_over_time, plots


@pytest.fixture(autouse=True, scope="module")
def few_pixels():
    with pytest.MonkeyPatch.context() as patch:
        for module in (plots, anchors_plot, hidden_words_plot):
            patch.setattr(module, "DOTS_PER_INCH", 45)
        for module in (mask_gallery, mask_over_time):
            patch.setattr(module, "SHEET_WIDTH", 600)
        yield
