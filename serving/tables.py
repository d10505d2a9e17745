"""Rows to a file: .csv, .jsonl or .parquet, a row at a time (of Parquet a group at a time), never all in memory.

CSV follows RFC 4180, in UTF-8: fields are quoted where they must be, lines end in CR LF, nothing stands for null. Names
and labels are written as they are, also those that a spreadsheet would take for a formula.
"""

import csv
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from serving.offline import OfflineError, Row
from serving.rows import Kind

if TYPE_CHECKING:  # an optional extra
    import pyarrow

_GROUP_ROWS = 8192  # of Parquet; with 1,000 probabilities each that is 33 MB
Columns = Mapping[str, Kind]


def write_csv(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write rows with a line of column names before them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def write_jsonl(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write a line of JSON for each row."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_parquet(path: Path, columns: Columns, rows: Iterable[Row]) -> None:
    """Write rows as text, int32 and float32."""
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema(columns)) as writer:
        for group in _groups(rows):
            writer.write_table(arrow(group, columns))


def arrow(rows: list[Row], columns: Columns) -> "pyarrow.Table":
    """Rows as an Arrow table."""
    import pyarrow

    return pyarrow.Table.from_pylist(rows, schema=schema(columns))


def schema(columns: Columns) -> "pyarrow.Schema":
    """What Arrow calls the columns' types."""
    import pyarrow as pa

    top = pa.list_(pa.struct({"label": pa.string(), "probability": pa.float32()}))
    types: dict[Kind, pyarrow.DataType] = {
        "text": pa.string(),
        "place": pa.int32(),
        "share": pa.float32(),
        "shares": pa.list_(pa.float32()),
        "top": top,
    }
    return pa.schema({name: types[kind] for name, kind in columns.items()})


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rest = iter(rows)
    while group := list(islice(rest, _GROUP_ROWS)):
        yield group


Write = Callable[[Path, Columns, Iterable[Row]], None]
WRITERS: dict[str, Write] = {  # by the suffix of the file
    ".csv": write_csv,
    ".jsonl": write_jsonl,
    ".parquet": write_parquet,
}


def check_writer(suffix: str) -> None:
    """Raise OfflineError where what writes such a file is not installed."""
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise OfflineError(
            "a .parquet file needs pyarrow, which is not installed: pip install 'viewfold[parquet]', or write a .csv "
            "or a .jsonl"
        )
