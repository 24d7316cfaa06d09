"""Frames: what the GPUs of one node read at one instant, and their form in a binary COPY. Pure.

PostgreSQL's binary COPY is a header, for each row its number of fields and each field with its length in front, and -1:
https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import functools
import itertools
import operator
import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
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
UPPER_HALF: Final = 1 if sys.byteorder == "little" else 0  # Of a C integer of eight bytes, as two of four.
ROW: Final = struct.Struct("!hiqiq")
ARRAY: Final = struct.Struct("!iiiIii")


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


class Run(NamedTuple):
    """Neighbouring samples of a batch, ``[begin, end)``, that were read from one node at one instant.

    ``ids`` are their GPUs, as an array's elements in a binary COPY.
    """

    node_id: int
    recorded_at: datetime
    begin: int
    end: int
    ids: bytes


def runs_of(columns: Columns, node_ids: Sequence[int]) -> list[Run]:
    """The runs of a batch, which agents send node by node; ``node_ids`` are its samples' nodes.

    What stands apart becomes two frames, which are read as one.
    """
    keys: Sequence[Any] = node_ids if columns.one_instant else list(zip(node_ids, columns.times, strict=True))
    changes = itertools.compress(range(1, len(keys)), map(operator.ne, keys, keys[1:]))
    ids = _int8s(columns.gpu_ids)
    return [
        Run(node_ids[begin], columns.times[begin], begin, end, ids[12 * begin : 12 * end])
        for begin, end in itertools.pairwise([0, *changes, len(keys)])
        if begin < end
    ]


def pack_runs(columns: Columns, runs: Iterable[Run]) -> bytes:
    """Frames of these runs as the rows of a binary COPY, without its header and trailer."""
    measured = [column for column in columns.figures if column is not None]
    if not all(isinstance(column, array) for column in measured):  # There are gaps in one of them.
        return pack_frames(
            Frame(run.node_id, run.recorded_at, columns.gpu_ids[run.begin : run.end], _part_of(columns, run))
            for run in runs
        )
    size, figures = 8 * len(columns.gpu_ids), _int4s(*measured)
    places = itertools.count(0, size)
    starts = [None if column is None else next(places) for column in columns.figures]
    rows: list[bytes] = []
    for node_id, at, begin, end, ids in runs:
        head, first, last = _array_head(INT4, end - begin), 8 * begin, 8 * end
        rows += (_row_head(node_id, at), _array_head(INT8, end - begin), ids)
        for start in starts:  # A loop that calls nothing: it takes half of what pieces put together take.
            rows += (NULL,) if start is None else (head, figures[start + first : start + last])
    return b"".join(rows)


def _part_of(columns: Columns, run: Run) -> list[Column]:
    return [column if column is None else column[run.begin : run.end] for column in columns.figures]


def pack_frames(frames: Iterable[Frame]) -> bytes:
    """The rows of a binary COPY, without its header and trailer."""
    return b"".join(map(_pack, frames))


def _pack(frame: Frame) -> bytes:
    count = len(frame.gpu_ids)
    pieces = [_row_head(frame.node_id, frame.recorded_at), _array_head(INT8, count), _int8s(frame.gpu_ids)]
    for column in frame.columns:
        if column is None:
            pieces.append(NULL)
        elif None in column:
            values = b"".join(NULL if value is None else struct.pack("!ii", 4, value) for value in column)
            pieces += (ARRAY.pack(20 + len(values), 1, 1, INT4, count, 1), values)
        else:
            pieces += (_array_head(INT4, count), _int4s(column))
    return b"".join(pieces)


def _row_head(node_id: int, at: datetime) -> bytes:
    return ROW.pack(FIELDS_A_ROW, 8, node_id, 8, _since_epoch(at))


@functools.lru_cache(maxsize=4096)
def _since_epoch(at: datetime) -> int:
    return (at - POSTGRES_EPOCH) // MICROSECOND


@functools.lru_cache(maxsize=4096)
def _array_head(kind: int, count: int) -> bytes:
    """Of an array without gaps: its length, dimensions, whether there are nulls, type, and that it counts from 1."""
    return ARRAY.pack(20 + count * (12 if kind == INT8 else 8), 1, 0, kind, count, 1)


def _int8s(values: Sequence[int]) -> bytes:
    """The elements of an array, each with its length in front."""
    halves = array("i", array("q", values).tobytes())
    elements = array("i", [8, 0, 0]) * len(values)
    elements[1::3], elements[2::3] = halves[UPPER_HALF::2], halves[1 - UPPER_HALF :: 2]
    return _big_endian(elements)


def _int4s(*columns: Iterable[int | None]) -> bytes:
    """The elements of an array of all their values, none of which is None."""
    values = array("i")
    for column in columns:
        values.extend(column)  # type: ignore[arg-type]
    elements = array("i", [4, 0]) * len(values)
    elements[1::2] = values
    return _big_endian(elements)


def _big_endian(values: "array[int]") -> bytes:
    if sys.byteorder == "little":
        values.byteswap()
    return values.tobytes()
