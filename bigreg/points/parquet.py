"""Tables as Parquet: streamed in batches, other columns and the schema's metadata carried along."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import CorruptDataError, InputError
from .carrier import Carrier, Counts
from .text import chosen_columns

ROWS = 1 << 20


def map_parquet(source: Path, target: Path, carrier: Carrier, columns: Sequence[str] | None) -> Counts:
    """Map a Parquet table; its three columns become float64. Raises InputError where pyarrow is missing."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InputError(f"'{source}' needs pyarrow; pip install 'bigreg[parquet]'") from error
    try:
        table = pq.ParquetFile(source)
        schema = table.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise CorruptDataError(f"'{source}' cannot be read as Parquet: {error}; write it again") from error
    places = chosen_columns(source, schema.names, columns)
    for place in places:
        kind = schema.field(place).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InputError(f"'{source}': column {schema.names[place]} holds {kind}; coordinates are numbers")
        schema = schema.set(place, schema.field(place).with_type(pa.float64()).with_nullable(True))
    taken = [name for name in carrier.added if name in schema.names]
    if taken:
        raise InputError(f"'{source}' has a column {taken[0]} already; rename it")
    for name in carrier.added:
        schema = schema.append(pa.field(name, pa.float64()))
    counts = Counts()
    codec = table.metadata.row_group(0).column(0).compression if table.metadata.num_row_groups else "SNAPPY"
    with pq.ParquetWriter(target, schema, compression=codec if codec != "UNCOMPRESSED" else "NONE") as write:
        for batch in table.iter_batches(ROWS):
            values = [batch.column(i).cast(pa.float64()).fill_null(np.nan).to_numpy() for i in places]
            carried = carrier(np.stack(values, axis=1))
            counts += carried.counts
            arrays = list(batch.columns)
            for place, column in zip(places, carried.points.T, strict=True):
                arrays[place] = pa.array(np.ascontiguousarray(column))
            arrays += [pa.array(np.ascontiguousarray(column)) for column in carried.added.T]
            write.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return counts
