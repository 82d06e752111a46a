"""How arrays and groups are stored: the one place that knows.

A location is a local path or a URL (file://, memory://, http(s)://, s3://, gs://). Groups and arrays are written as
Zarr v3; Zarr v3, Zarr v2 and N5 are read. tensorstore does the work: its local files are written beside their final
name and renamed, so a reader meets an old chunk or a new one but never half of one. Each chunk that is written here
carries a checksum, so a flipped bit is an error and not an image. What fails for a passing reason is tried again.

The rule that parallel writers live by: one writer owns whole shards (whole chunks where an array has no shards).
"""

from ..places import join, local_path, scheme, zip_parts
from .arrays import Array, Codec, create_array, open_array
from .claims import Claim
from .files import check_replaceable, new_file
from .locations import configure, filesystem
from .nodes import (
    Node,
    children,
    create_group,
    exists,
    find_node,
    read_attributes,
    read_file,
    read_json,
    remove,
    write_attributes,
    write_file,
)
from .retry import patiently
from .tables import declared_separator, decoded, number, separator_of, table_rows
from .turns import computing

__all__ = [
    "Array",
    "Claim",
    "Codec",
    "Node",
    "check_replaceable",
    "children",
    "computing",
    "configure",
    "create_array",
    "create_group",
    "declared_separator",
    "decoded",
    "exists",
    "filesystem",
    "find_node",
    "join",
    "local_path",
    "new_file",
    "number",
    "open_array",
    "patiently",
    "read_attributes",
    "read_file",
    "read_json",
    "remove",
    "scheme",
    "separator_of",
    "table_rows",
    "write_attributes",
    "write_file",
    "zip_parts",
]
