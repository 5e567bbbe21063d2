"""Sample rows column by column, so that what all conditions share is stored once.

The sample rows of two conditions differ in the log-likelihoods and little else. A file of sample
rows is taken apart into its schema and its columns, each a small Parquet file named by its hash.
Put together again, they give the same bytes, by any version of pyarrow that encodes columns as the
version which wrote them. Its name, which Parquet files hold, is put in place of this version's.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSION_LEVEL = 19
# The pages of a Parquet file can repeat a value without end, so its size bounds no memory.
ROWS_AT_MOST = 20_000_000


def take_apart(content: bytes) -> list[bytes] | None:
    """The schema and the columns of a file of sample rows, or None if they do not give it again."""
    rows = pq.read_table(io.BytesIO(content))
    created_by = pq.read_metadata(io.BytesIO(content)).created_by
    columns = [rows.select([name]).replace_schema_metadata() for name in rows.column_names]
    try:
        parts = [_written(rows.slice(0, 0), created_by), *map(_compressed, columns)]
        return parts if put_together(parts) == content else None
    except ValueError:  # a name that this footer cannot hold
        return None


def put_together(parts: Sequence[bytes]) -> bytes:
    """The file of sample rows with this schema and these columns.

    Raises ValueError if they do not fit together, or are no files that pyarrow reads.
    """
    try:
        return _put_together(parts)
    except OSError as error:  # what pyarrow raises for a damaged footer or page
        raise ValueError(str(error)) from None


def _put_together(parts: Sequence[bytes]) -> bytes:
    schema, *columns = (pq.ParquetFile(io.BytesIO(part)) for part in parts)
    counts = {file.metadata.num_rows for file in columns}
    if len(counts) != 1 or max(counts) > ROWS_AT_MOST:
        raise ValueError(f"columns of {sorted(counts)} rows")
    arrays = [file.read().column(0) for file in columns]
    rows = pa.Table.from_arrays(arrays, schema=schema.schema_arrow)
    return _written(rows, schema.metadata.created_by)


def _written(rows: pa.Table, created_by: str) -> bytes:
    """As `pandas.DataFrame.to_parquet` writes the rows, with the version that `created_by` names.

    The name is in the footer, whose length stands before the last four bytes. Its own length is the
    byte before it (Thrift's compact protocol). Raises ValueError for a name of more than 127 bytes,
    or one that is not ASCII.
    """
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="snappy")
    content = buffer.getvalue()
    here = pq.read_metadata(io.BytesIO(content)).created_by
    end = len(content) - 8
    start = end - int.from_bytes(content[end : end + 4], "little")
    before, found, after = content[start:end].rpartition(_text(here))
    if not found:
        raise ValueError(f"the footer does not name {here}")
    footer = before + _text(created_by) + after
    return content[:start] + footer + len(footer).to_bytes(4, "little") + content[-4:]


def _text(name: str) -> bytes:
    if len(name) > 127:
        raise ValueError(f"a version of pyarrow is named by {len(name)} characters")
    return bytes([len(name)]) + name.encode("ascii")


def _compressed(column: pa.Table) -> bytes:
    buffer = io.BytesIO()
    floats = pa.types.is_floating(column.schema.field(0).type)
    pq.write_table(
        column,
        buffer,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=not floats,
        use_byte_stream_split=floats,
    )
    return buffer.getvalue()
