"""A fake Google Cloud for each test, whose runs end with it."""

import fake_cloud
import pytest


@pytest.fixture
def cloud(tmp_path):
    cloud = fake_cloud.Cloud(tmp_path)
    yield cloud
    cloud.close()
