"""Frames: what the GPUs of one node read at one instant, and their form in a binary COPY. Pure.

PostgreSQL's binary COPY is a header, for each row its number of fields and each field with its length in front, and -1:
https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import functools
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from clusters.telemetry import Column, Columns, Sample

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"
FIELDS_A_ROW: Final = 9  # Node, time, GPU ids, and six figures.
INT4, INT8 = 23, 20  # PostgreSQL's numbers of these types.
POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


class Frame(NamedTuple):
    """GPU ids, and in their order utilisation, memory used and total, temperature, power and XID, a column each.

    Utilisation, temperature and power are thousandths; a column is None where nobody measured it.
    """

    node_id: int
    recorded_at: datetime
    gpu_ids: Sequence[int]
    columns: Sequence[Column]


def frames_of(samples: Iterable[Sample], node_of: Mapping[int, int]) -> list[Frame]:
    """The samples by node and instant."""
    grouped: dict[tuple[int, datetime], list[Sample]] = {}
    for sample in samples:
        grouped.setdefault((node_of[sample.gpu_id], sample.recorded_at), []).append(sample)
    return [
        Frame(
            node_id,
            at,
            [one.gpu_id for one in group],
            (
                _thousandths([one.utilization_pct for one in group]),
                _measured([one.memory_used_mb for one in group]),
                _measured([one.memory_total_mb for one in group]),
                _thousandths([one.temperature_c for one in group]),
                _thousandths([one.power_draw_w for one in group]),
                _measured([one.xid for one in group]),
            ),
        )
        for (node_id, at), group in grouped.items()
    ]


def _thousandths(values: list[float | None]) -> Column:
    return _measured([None if value is None else round(value * 1000) for value in values])


def _measured(values: list[int | None]) -> Column:
    return values if values.count(None) < len(values) else None


def frames_of_runs(columns: Columns, node_ids: Sequence[int]) -> Iterator[Frame]:
    """Frames of neighbouring samples of one node and instant, as agents send them; ``node_ids`` are the samples' nodes.

    What stands apart becomes two frames, which are read as one.
    """
    keys: list[Any] = list(node_ids) if columns.one_instant else list(zip(node_ids, columns.times, strict=True))
    ends = [end for end in range(1, len(keys)) if keys[end] != keys[end - 1]]
    for begin, end in zip([0, *ends], [*ends, len(keys)], strict=True):
        figures = [None if column is None else column[begin:end] for column in columns.figures]
        yield Frame(node_ids[begin], columns.times[begin], columns.gpu_ids[begin:end], figures)


def pack_frames(frames: Iterable[Frame]) -> bytes:
    """The rows of a binary COPY, without its header and trailer."""
    return b"".join(map(_pack, frames))


def _pack(frame: Frame) -> bytes:
    at = (frame.recorded_at - POSTGRES_EPOCH) // MICROSECOND
    if any(column is not None and None in column for column in frame.columns):
        return _pack_with_gaps(frame, at)
    shape = _shape(len(frame.gpu_ids), tuple(column is not None for column in frame.columns))
    row = shape.row.copy()
    row[2], row[4] = frame.node_id, at
    row[shape.ids] = frame.gpu_ids
    for place, column in zip(shape.places, filter(None, frame.columns), strict=True):
        row[place] = column
    return shape.form.pack(*row)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A row of so many GPUs with these figures: its form, its lengths filled in, and where the values go."""

    form: struct.Struct
    row: list[Any]
    ids: slice
    places: list[slice]


@functools.lru_cache(maxsize=4096)
def _shape(count: int, measured: tuple[bool, ...]) -> _Shape:
    form, row = "!hiqiq", [FIELDS_A_ROW, 8, 0, 8, 0]
    form += "iiiIii" + "iq" * count
    row += [20 + 12 * count, 1, 0, INT8, count, 1]
    ids = slice(len(row) + 1, len(row) + 2 * count, 2)
    row += [8, 0] * count
    places = []
    for there in measured:
        if not there:
            form += "i"
            row.append(-1)
            continue
        form += "iiiIii" + "ii" * count
        row += [20 + 8 * count, 1, 0, INT4, count, 1]
        places.append(slice(len(row) + 1, len(row) + 2 * count, 2))
        row += [4, 0] * count
    return _Shape(struct.Struct(form), row, ids, places)


def _pack_with_gaps(frame: Frame, at: int) -> bytes:
    ids = b"".join(struct.pack("!iq", 8, gpu_id) for gpu_id in frame.gpu_ids)
    row = struct.pack("!hiqiq", FIELDS_A_ROW, 8, frame.node_id, 8, at) + _array(
        ids, INT8, len(frame.gpu_ids), gaps=False
    )
    for column in frame.columns:
        if column is None:
            row += NULL
            continue
        values = b"".join(NULL if value is None else struct.pack("!ii", 4, value) for value in column)
        row += _array(values, INT4, len(column), gaps=True)
    return row


def _array(values: bytes, kind: int, count: int, *, gaps: bool) -> bytes:
    return struct.pack("!iiiIii", 20 + len(values), 1, gaps, kind, count, 1) + values
