"""A batch of clips in, the records and windows that they were made of out: what a person can look up."""

from mmdiff.data.records import decode, read_split
from mmdiff.data.video_examples import VideoBatch, window_id


def window_names(folder: str, batch: VideoBatch, split: str = "train") -> list[str]:
    """`RECORD, window N` for each clip of a batch. Reads every record of the split: for when something went wrong."""
    names = {}
    for example in read_split(folder, split):
        record = decode(example)
        for window in range(len(record.windows)):
            names[window_id(record.id, window)] = f"{record.id}, window {window}"
    return [names.get(int(number), f"unknown window {number}") for number in batch.id]
