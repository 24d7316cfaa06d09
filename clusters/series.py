"""One GPU's samples, from whatever holds them: frames for what is fresh, rollups of hours and days for the rest.

Figures are stored as integers (thousandths of a percent, degree and watt; whole megabytes), so that sums, and
averages of sums of sums, are exact whatever they were added up from.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, cast

import msgspec

from clusters.sampledb import samples_connection

# Columns of a frame, with what one unit of the API is in them.
SCALES: Final = {"utilization": 1000, "memory_used": 1, "memory_total": 1, "temperature": 1000, "power": 1000}
FIELDS: Final = tuple(SCALES)
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

Level = Literal["raw", "hour", "day"]
TABLES: Final[dict[str, tuple[str, timedelta]]] = {
    "hour": ("clusters_metrichour", HOUR),
    "day": ("clusters_metricday", DAY),
}

# A retry may have stored a sample twice; each (gpu, recorded_at) counts once. Where the two differ, the order of the
# figures decides, so that every reader sees the same one.
ONCE = """
    SELECT DISTINCT ON (reading.gpu_id, frame.recorded_at) frame.recorded_at, reading.*
    FROM clusters_metricframe AS frame
    CROSS JOIN LATERAL unnest(
        frame.gpu_ids, frame.utilization, frame.memory_used, frame.memory_total, frame.temperature, frame.power,
        frame.xid
    ) AS reading (gpu_id, utilization, memory_used, memory_total, temperature, power, xid)
    WHERE {where}
    ORDER BY reading.gpu_id, frame.recorded_at, utilization, memory_used, memory_total, temperature, power, xid
"""
OF_SAMPLES = ", ".join(
    f"count({field})::int, min({field}), max({field}), sum({field})::bigint,"
    f" (array_agg({field} ORDER BY recorded_at DESC) FILTER (WHERE {field} IS NOT NULL))[1]"
    for field in FIELDS
)
OF_ROLLUPS = ", ".join(
    f"sum({field}_count)::int, min({field}_min), max({field}_max), sum({field}_sum)::bigint,"
    f" (array_agg({field}_last ORDER BY start DESC) FILTER (WHERE {field}_last IS NOT NULL))[1]"
    for field in FIELDS
)
COLUMNS = ", ".join(f"{field}_{part}" for field in FIELDS for part in ("count", "min", "max", "sum", "last"))

OF_GPU = "frame.node_id = %s AND reading.gpu_id = %s AND frame.recorded_at >= %s AND frame.recorded_at < %s"
READINGS = f"""
SELECT recorded_at, {", ".join(FIELDS)}, xid FROM ({ONCE.format(where=OF_GPU)}) AS sample ORDER BY recorded_at LIMIT %s
"""  # noqa: S608  (made of constants)
BUCKETS = f"""
SELECT date_bin(%s::interval, recorded_at, %s), count(*)::int, {OF_SAMPLES}
FROM ({ONCE.format(where=OF_GPU)}) AS sample GROUP BY 1 ORDER BY 1
"""  # noqa: S608  (made of constants)
ROLLED = """
SELECT date_bin(%s::interval, start, %s), sum(samples)::int, {figures}
FROM {table} WHERE gpu_id = %s AND start >= %s AND start < %s GROUP BY 1 ORDER BY 1
"""
# Of buckets as wide as the rollup there is nothing to add up.
AS_ROLLED = (
    "SELECT start, samples, {columns} FROM {table} WHERE gpu_id = %s AND start >= %s AND start < %s ORDER BY start"
)
# All of them as one text of arrays: two thousand buckets of 27 figures are read several times faster so.
NAMES: Final = ("start", "samples", *COLUMNS.split(", "))
BY_COLUMN = f"""
SELECT json_build_array(
    array_agg(start AT TIME ZONE 'UTC' ORDER BY start),
    {", ".join(f"array_agg({name} ORDER BY start)" for name in NAMES[1:])}
)::text
FROM ({{rows}}) AS bucket ({", ".join(NAMES)})
"""  # noqa: S608  (made of constants)
UNTIL = """
SELECT least(
    (SELECT hours_until FROM clusters_metricrollup), (SELECT min(hour) FROM clusters_metriclate WHERE node_id = %s)
)
WHERE EXISTS (SELECT FROM clusters_metricrollup)
"""
# Each sample once, also where it is stored twice.
MEAN_READINGS = """
SELECT date_bin(%s::interval, recorded_at, %s), avg(value)::float8 / %s
FROM (
    SELECT DISTINCT ON (asked.gpu_id, frame.recorded_at) frame.recorded_at, reading.value
    FROM {asked}
    JOIN clusters_metricframe AS frame
      ON frame.node_id = asked.node_id AND frame.recorded_at >= asked.since AND frame.recorded_at < asked.until
    CROSS JOIN LATERAL unnest(frame.gpu_ids, frame.{figure}) AS reading (gpu_id, value)
    WHERE reading.gpu_id = asked.gpu_id AND reading.value IS NOT NULL
    ORDER BY asked.gpu_id, frame.recorded_at, reading.value
) AS once
GROUP BY 1 ORDER BY 1
"""
MEAN_HOURS = """
SELECT hour.start, sum(hour.{figure}_sum)::float8 / sum(hour.{figure}_count) / %s
FROM {asked}
JOIN clusters_metrichour AS hour
  ON hour.gpu_id = asked.gpu_id AND hour.start >= asked.since AND hour.start < asked.until AND hour.{figure}_count > 0
GROUP BY 1 ORDER BY 1
"""
ASKED = (
    "unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::timestamptz[]) AS asked (gpu_id, node_id, since, until)"
)


class Spread(NamedTuple):
    """What the samples of a bucket say of one figure, in the integers of the database."""

    measured: int
    least: int | None
    greatest: int | None
    total: int | None
    last: int | None

    def then(self, later: "Spread") -> "Spread":
        """This spread and a later one of the same bucket as one."""
        if not later.measured:
            return self
        if not self.measured:
            return later
        (least, greatest, total), (other_least, other_greatest, other_total) = self.bounds(), later.bounds()
        return Spread(
            self.measured + later.measured,
            min(least, other_least),
            max(greatest, other_greatest),
            total + other_total,
            later.last,
        )

    def bounds(self) -> tuple[int, int, int]:
        """Least, greatest and total of a spread that counts something."""
        return cast("tuple[int, int, int]", (self.least, self.greatest, self.total))


class Bucket(NamedTuple):
    """The samples of one GPU in ``[start, start + step)``, counted once each; a spread for each of ``FIELDS``."""

    start: datetime
    samples: int
    spreads: tuple[Spread, ...]

    def then(self, later: "Bucket") -> "Bucket":
        """This part of a bucket and a later one as one."""
        spreads = tuple(one.then(other) for one, other in zip(self.spreads, later.spreads, strict=True))
        return Bucket(self.start, self.samples + later.samples, spreads)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Buckets of one GPU by column, oldest first; ``spreads`` are for each of ``FIELDS`` the columns of ``Spread``.

    A start is a whole second, as text in UTC without its zone (2026-11-23T12:00:00): it is shown as it is read.
    """

    starts: list[str]
    samples: list[int]
    spreads: list[list[list[Any]]]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Bucket]:
        spreads = [map(Spread._make, zip(*columns, strict=True)) for columns in self.spreads]
        return map(Bucket, map(_instant, self.starts), self.samples, zip(*spreads, strict=True))


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a window, and the level that holds it."""

    level: Level
    start: datetime
    end: datetime


def floor_to(at: datetime, width: timedelta) -> datetime:
    """The last boundary of this width at or before an instant. Hours and days are those of UTC."""
    return at - (at - EPOCH) % width


def pieces(
    start: datetime, end: datetime, *, until: datetime, levels: Sequence[tuple[Level, timedelta]]
) -> list[Piece]:
    """Cut ``[start, end)`` so that each part is read from the coarsest level that has it whole.

    ``levels`` go from coarse to fine, and are complete before ``until``; what none of them has is raw.
    """
    return [piece for piece in _pieces(start, end, until, levels) if piece.start < piece.end]


def _pieces(
    start: datetime, end: datetime, until: datetime, levels: Sequence[tuple[Level, timedelta]]
) -> Iterator[Piece]:
    if not levels:
        yield Piece("raw", start, end)
        return
    (level, width), finer = levels[0], levels[1:]
    first = start if floor_to(start, width) == start else floor_to(start, width) + width
    last = floor_to(min(end, until), width)
    if first >= last:
        yield from _pieces(start, end, until, finer)
        return
    yield from _pieces(start, first, until, finer)
    yield Piece(level, first, last)
    yield from _pieces(last, end, until, finer)


def readings(*, node_id: int, gpu_id: int, start: datetime, end: datetime, limit: int) -> list[tuple[Any, ...]]:
    """The samples in ``[start, end)``, oldest first: time, ``FIELDS`` as integers, XID."""
    with samples_connection().cursor() as cursor:
        cursor.execute(READINGS, [node_id, gpu_id, start, end, limit])
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def buckets(*, node_id: int, gpu_id: int, start: datetime, end: datetime, width: timedelta) -> Buckets:
    """The samples in ``[start, end)`` in buckets of this width, oldest first; empty ones are left out.

    Whole hours and days come from the rollups, as far as they are complete; the rest, and edges, from the samples.
    """
    levels: list[tuple[Level, timedelta]] = [("day", DAY)] if width >= DAY else []
    levels += [("hour", HOUR)] if width >= HOUR else []
    found: list[list[Any]] = [[] for _ in NAMES]
    with samples_connection().cursor() as cursor:
        cursor.execute(UNTIL, [node_id])
        row = cursor.fetchone()
        for piece in pieces(start, end, until=row[0] if row else EPOCH, levels=levels):
            _append(found, _read(cursor, piece, node_id, gpu_id, width))
    starts, samples, *figures = found
    return Buckets(starts, samples, [figures[n : n + 5] for n in range(0, len(figures), 5)])


def mean_readings(
    figure: Literal["utilization", "temperature"],
    asked: Collection[tuple[int, int, datetime, datetime]],
    *,
    width: timedelta,
) -> list[tuple[datetime, float]]:
    """The mean of a figure, in percent or degrees, over GPUs, each with its node and a window of its own.

    In buckets of this width, oldest first; in hours where the samples are gone. One query or two.
    """
    if not asked:
        return []
    columns = [*map(list, zip(*asked, strict=True))]
    scale = SCALES[figure]
    parameters: list[Any] = [width, EPOCH, scale, *columns]
    with samples_connection().cursor() as cursor:
        cursor.execute(MEAN_READINGS.format(asked=ASKED, figure=figure), parameters)
        rows: list[tuple[datetime, float]] = cursor.fetchall()
        if not rows:
            cursor.execute(MEAN_HOURS.format(asked=ASKED, figure=figure), [scale, *columns])
            rows = cursor.fetchall()
    return rows


def _append(found: list[list[Any]], columns: list[list[Any]]) -> None:
    """Put a later piece's columns behind those of the earlier ones; a bucket that both have a part of becomes one."""
    if found[0] and columns[0] and found[0][-1] == columns[0][0]:
        start = found[0][-1]
        whole = _bucket(column.pop() for column in found).then(_bucket(column[0] for column in columns))
        joined = [start, whole.samples, *(figure for spread in whole.spreads for figure in spread)]
        columns = [[first, *column[1:]] for first, column in zip(joined, columns, strict=True)]
    for column, more in zip(found, columns, strict=True):
        column += more


def _instant(start: str) -> datetime:
    return datetime.fromisoformat(start).replace(tzinfo=UTC)


def _bucket(row: Iterable[Any]) -> Bucket:
    start, samples, *figures = row
    return Bucket(_instant(start), samples, tuple(Spread._make(figures[n : n + 5]) for n in range(0, len(figures), 5)))


def _read(cursor: Any, piece: Piece, node_id: int, gpu_id: int, width: timedelta) -> list[list[Any]]:
    params: list[Any] = [gpu_id, piece.start, piece.end]
    table, own_width = TABLES.get(piece.level, ("", None))
    if piece.level == "raw":
        rows, params = BUCKETS, [width, EPOCH, node_id, *params]
    elif width == own_width:
        rows = AS_ROLLED.format(columns=COLUMNS, table=table)
    else:
        rows, params = ROLLED.format(figures=OF_ROLLUPS, table=table), [width, EPOCH, *params]
    cursor.execute(BY_COLUMN.format(rows=rows), params)
    (text,) = cursor.fetchone()
    return [column or [] for column in msgspec.json.decode(text)]
