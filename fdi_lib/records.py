"""The one record that crosses every step: column names, dtypes, statuses and reasons. No stage invents a column.

Three shapes of the same row, each a superset of what the next step needs:

``REFERENCE``  where an image's bytes are (made by the source readers)
``DECISION``   a reference plus what was seen and decided (made by decode and classify); no pixels
``LEDGER``     what became of the image (written once, after its output is durable)
"""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa

SCHEMA_VERSION = 1
ALGORITHM_VERSION = 8  # raised when the same settings and weights would give other decisions or other bytes


class Status(StrEnum):
    """What became of an image. Always restored + clean + kept + review + failed == images in the source."""

    RESTORED = "restored"
    CLEAN = "clean"
    KEPT = "kept"
    REVIEW = "review"
    FAILED = "failed"


class Reason(StrEnum):
    """Why an image has its status; empty for restored and clean."""

    NONE = ""
    UNSUPPORTED_PIXELS = "unsupported_pixels"  # kept: 1-bit, palette, CMYK, Lab, float, multi-page (so far)
    UNSUPPORTED_METADATA = "unsupported_metadata"  # kept: the label or its other metadata don't fit into the new file
    UNKNOWN = "unknown"  # kept or review: unlike anything in the bank
    GATE = "gate"  # kept or review: a do-no-harm gate refused the candidate
    POLICY = "policy"  # kept: the adapters it needs are disabled in the manifest
    EMPTY_FILE = "empty_file"  # failed: zero bytes
    NOT_AN_IMAGE = "not_an_image"  # failed: no reader knows the bytes
    TRUNCATED = "truncated"  # failed: the decoder met the end, or a broken stream
    TOO_LARGE = "too_large"  # failed: more pixels than limits.max_pixels_mp
    UNREADABLE = "unreadable"  # failed: any other decoding error
    TIMEOUT = "timeout"  # failed: not decoded within limits.timeout_s
    DECODER_DIED = "decoder_died"  # failed: it crashed its decoder, or asked for more memory than its size explains
    MISSING_SOURCE = "missing_source"  # failed: listed, but not there when it was read
    ACCESS_DENIED = "access_denied"  # failed: the store may be listed, but this object may not be read
    READ_ERROR = "read_error"  # failed: its disk cannot read it, but others of the same folder
    ARCHIVED = "archived"  # failed: it lies in an archive tier (S3 Glacier), from which it must be restored first
    SOURCE_CHANGED = "source_changed"  # failed: other bytes than the inventory lists, or others each time it was read
    UNSAFE_NAME = "unsafe_name"  # failed: a name that would leave the output
    WORKER_DIED = "worker_died"  # failed: its worker went away every time it was tried, alone
    ADAPTER_FAILED = "adapter_failed"  # failed: an adapter it needs could not be loaded, on two workers
    OUTPUT_CONFLICT = "output_conflict"  # failed: another run's bytes already lie at the output's name
    BAD_OUTPUT = "bad_output"  # review: the model returned NaN or a blank picture


STRING = pa.string()
_NAMED = [("name", STRING), ("weight", pa.float32())]
_GATE = [("name", STRING), ("value", pa.float64()), ("limit", pa.float64()), ("ok", pa.bool_())]

# Where the bytes are. ``offset`` and ``length`` address a member inside ``object`` (an uncompressed tar);
# for a Parquet shard ``row`` is the row number in the file. A whole file has offset 0, length = its size, row -1.
REFERENCE = pa.schema([
    ("image_id", STRING),      # path below source.uri, with shard and member; unique in a run
    ("shard", STRING),         # path of the shard below source.uri; "" for plain files
    ("source_uri", STRING),    # object#member for shards, the object's URI otherwise
    ("object", STRING),        # URI of the object that holds the bytes
    ("kind", STRING),          # file | tar | parquet
    ("offset", pa.int64()),
    ("length", pa.int64()),
    ("row", pa.int64()),
])  # fmt: skip

_SEEN = [
    ("source_sha256", STRING),
    ("source_bytes", pa.int64()),
    ("width", pa.int32()),     # px, as stored (orientation not applied)
    ("height", pa.int32()),
    ("pages", pa.list_(pa.struct([("width", pa.int32()), ("height", pa.int32())]))),
]  # fmt: skip
_DECIDED = [
    ("status", STRING),        # "" while restoration is still to be done, else a Status
    ("reason", STRING),        # a Reason
    ("detail", STRING),        # human-readable evidence: the decoder's message, say
    ("verdict", STRING),       # single | mixture | clean | unknown | "" (not classified)
    ("route", STRING),         # adapter names only: "haze+noise" (composite), "haze>noise" (progressive), "" (none)
    ("composition", STRING),   # the same with weights to two decimals
    ("scores", pa.map_(STRING, pa.float32())),  # cosine similarity to each reference direction
    ("residual", pa.float32()),                 # share of the energy that no reference explains, in [0, 1]
]  # fmt: skip

DECISION = pa.schema([
    *REFERENCE,
    *_SEEN,
    *_DECIDED,
    ("decode_s", pa.float32()),    # seconds spent on reading, hashing, decoding and cutting views
    ("classify_s", pa.float32()),  # share of its batch
])  # fmt: skip

LEDGER = pa.schema([
    ("schema_version", pa.int32()),
    ("image_id", STRING),
    ("shard", STRING),
    ("source_uri", STRING),
    *_SEEN,
    *_DECIDED,
    ("adapters", pa.list_(pa.struct([*_NAMED, ("sha256", STRING)]))),
    ("seed", pa.int64()),
    ("steps", pa.int32()),
    ("gates", pa.list_(pa.struct(_GATE))),
    ("output_uri", STRING),    # "" for failed
    ("output_sha256", STRING),
    ("output_bytes", pa.int64()),
    ("seconds", pa.float32()), # wall time spent on this image, all stages
    ("attempt", pa.int32()),   # 1 for a first run; retry appends attempt + 1
    ("worker", STRING),
])  # fmt: skip
