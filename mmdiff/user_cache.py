"""The name of something that may be made again in, the folder where it is kept from one run to the next out."""

import os
from pathlib import Path

VARIABLE, DEFAULT = "MMDIFF_CACHE", "~/.cache/mmdiff"


def cache_folder(name: str) -> Path:
    """Below the folder that the environment variable MMDIFF_CACHE names, or else ~/.cache/mmdiff; it may not be there yet."""
    return Path(os.environ.get(VARIABLE) or DEFAULT).expanduser() / name
