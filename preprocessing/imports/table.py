"""Our own boxes.parquet in, or a table like it that pandas or DuckDB wrote, rows out."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

from preprocessing.boxes_table import COLUMNS
from preprocessing.imports.rows import BODY, OBJECT, PERSON, Place, Row, part_of, source_of
from preprocessing.problems import PreprocessError

NEEDED = ("video", "x0", "y0", "x1", "y1")  # beside `time` or `frame`
BATCH = 2**14  # rows held at once


def table_rows(path: Path, rate: float | None) -> Iterator[tuple[Place, Row]]:
    """Every row with its number, from 0 as pandas counts. Further columns are passed over.

    `time` says where a box belongs; only where it is missing, `frame` does. A box without `track` has none, one without
    `label` and `part` is a person's body, one without `source` is imported, one without `score` is sure. Without `width`
    and `height` pixels are those of the video as players show it.

    Raises PreprocessError where the file is no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = [name for name in COLUMNS if name in file.schema_arrow.names]
            missing = [name for name in NEEDED if name not in known]
            if missing or not {"time", "frame"} & set(known):
                lacks = ", ".join(missing or ["time or frame"])
                raise PreprocessError(f"{path} has no column {lacks}; name its columns as boxes.parquet does")
            first = 0
            # pyarrow keeps what it read of the row groups that it was asked for: they are asked for one by one.
            groups = range(file.num_row_groups)
            for batch in itertools.chain.from_iterable(file.iter_batches(BATCH, [i], known) for i in groups):
                columns = {name: _values(path, name, batch.column(name)) for name in known}
                absent = [None] * len(batch)
                rows = zip(*(columns.get(name, absent) for name in COLUMNS), strict=True)
                for number, row in enumerate(rows, first):
                    yield Place(path.name, f"row {number}"), _row(*row, rate)
                first += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise PreprocessError(f"{path} cannot be read as Parquet ({said}); write it again") from None


def _values(path: Path, name: str, column) -> list:
    """Texts or floats, however they were stored, with None where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    is_text = COLUMNS[name] == "string"
    try:
        if is_text:
            return column.cast(pa.string()).to_pylist()
        numbers = column.cast(pa.float64(), safe=False)
        return pc.replace_with_mask(
            numbers, pc.fill_null(pc.is_nan(numbers), False), pa.scalar(None, pa.float64())
        ).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise PreprocessError(
            f"{path}: column {name} holds {column.type}, not {'texts' if is_text else 'numbers'}; "
            "store it as boxes.parquet does"
        ) from None


def _row(
    video, frame, time, track, label, part, score, x0, y0, x1, y1, width, height, source, rate: float | None
) -> Row:
    edges = (math.nan if edge is None else edge for edge in (x0, y0, x1, y1))
    label, part = (label or "").strip(), (part or "").strip()
    if label and not part:
        label, part = part_of(label)
    return Row(
        video or "",
        time,
        frame,
        rate,
        *edges,
        width,
        height,
        label or (OBJECT if part == OBJECT else PERSON),
        part or BODY,
        score,
        source_of(source),
        track,
    )
