"""Results as Parquet: the rows of the CSV with their types, and where they came from."""

from __future__ import annotations

import json
from pathlib import Path

from ..files import replacing
from .request import Export
from .tables import as_classes, iter_tables

__all__ = ["write_parquet"]

#: Under this key of the file's metadata, as JSON.
KEY = b"napari-sparseattn"
_ROWS = 2**16


def write_parquet(export: Export, path: Path) -> list[Path]:
    """Write a table, atomically; frame by frame as row groups.

    Columns are those of the CSV; the class is a dictionary column. Parquet's
    key-value metadata holds where the table came from, as JSON under
    ``napari-sparseattn``, and pandas' own description of the columns.

    Parameters
    ----------
    export : Export
        Cells, frames, a field's crops, or a slide's patches.
    path : pathlib.Path
        The file.

    Returns
    -------
    list of pathlib.Path
        The file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = len(export.frames) if export.kind == "frames" else 1
    writer: pq.ParquetWriter | None = None
    with replacing(path) as temporary:
        try:
            tables = iter_tables(export.result, export.card.name, export.image.name)
            for number, frame in enumerate(tables):
                if "class" in frame:
                    frame["class"] = as_classes(frame["class"], export.first.class_names)
                for name in ("model", "image"):
                    if name in frame:
                        frame[name] = frame[name].astype("category")
                table = pa.Table.from_pandas(frame, preserve_index=False)
                if writer is None:
                    said = json.dumps(export.provenance).encode()
                    metadata = {**(table.schema.metadata or {}), KEY: said}
                    writer = pq.ParquetWriter(temporary, table.schema.with_metadata(metadata))
                writer.write_table(table.cast(writer.schema), row_group_size=_ROWS)
                export.report(number + 1, total)
        finally:
            if writer is not None:
                writer.close()
    return [path]
