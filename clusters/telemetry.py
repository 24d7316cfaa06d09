"""Metric batches as agents send them: their shape, their limits, and what is wrong with them. Pure."""

import itertools
import re
import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from clusters.states import TEMPERATURE_LIMIT_C

MAX_SAMPLES: Final = 5_000
MAX_AGE: Final = timedelta(hours=24)
MAX_LEAD: Final = timedelta(seconds=60)
SHOWN_FLAWS: Final = 20

Id = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Megabytes = Annotated[float, msgspec.Meta(ge=0, le=2**31 - 1)]  # Stored whole.
WholeMegabytes = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]  # What agents send; it costs less.
Celsius = Annotated[float, msgspec.Meta(ge=-100, le=300)]
Watts = Annotated[float, msgspec.Meta(ge=0, le=100_000)]
Xid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Column = Sequence[int | None] | None  # An array of C ints where nothing is missing and a batch came quickly.
Instant = Annotated[datetime, msgspec.Meta(tz=True)]


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing that is wrong with a batch: where (a JSON pointer), a machine code, and a sentence."""

    pointer: str
    code: str
    detail: str


class BadBatch(ValueError):
    """The batch is refused, for these flaws."""

    def __init__(self, *flaws: Flaw) -> None:
        super().__init__(flaws[0].detail)
        self.flaws = flaws


class TooManySamples(ValueError):
    """The batch has more than ``MAX_SAMPLES``."""


class SentSample(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """One element of ``metrics``. A field that is null or left out was not measured."""

    gpu_id: Id
    utilization_pct: Percent | None = None
    memory_used_mb: Megabytes | None = None
    memory_total_mb: Megabytes | None = None
    temperature_c: Celsius | None = None
    power_draw_w: Watts | None = None
    xid: Xid | None = None
    recorded_at: Instant | None = None


class Batch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of ``POST /api/clusters/metrics``."""

    metrics: Annotated[list[SentSample], msgspec.Meta(min_length=1)]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """A sample that passed the checks. Its place in a batch is its place in the list."""

    gpu_id: int
    recorded_at: datetime
    utilization_pct: float | None
    memory_used_mb: int | None
    memory_total_mb: int | None
    temperature_c: float | None
    power_draw_w: float | None
    xid: int | None


def decode(body: Any, *, now: datetime) -> list[Sample]:
    """Check a parsed JSON body and give its samples, in order, those without a time at ``now``.

    Raises ``TooManySamples``, and ``BadBatch`` that points at the place, such as ``#/metrics/3/utilization_pct``.
    """
    if isinstance(body, dict) and isinstance(sent := body.get("metrics"), list) and len(sent) > MAX_SAMPLES:
        raise TooManySamples
    try:
        sent = msgspec.convert(body, Batch).metrics
    except msgspec.ValidationError as error:
        raise BadBatch(flaw_of(str(error))) from error
    _refuse(_misdated(sent, now))
    samples = [_dated(one, now) for one in sent]
    _refuse(_repeated(samples))
    return samples


def _refuse(flaws: Iterator[Flaw]) -> None:
    found = list(itertools.islice(flaws, SHOWN_FLAWS))
    if found:
        raise BadBatch(*found)


def _dated(sent: SentSample, now: datetime) -> Sample:
    return Sample(
        gpu_id=sent.gpu_id,
        recorded_at=now if sent.recorded_at is None else sent.recorded_at.astimezone(UTC),
        utilization_pct=sent.utilization_pct,
        memory_used_mb=_whole(sent.memory_used_mb),
        memory_total_mb=_whole(sent.memory_total_mb),
        temperature_c=sent.temperature_c,
        power_draw_w=sent.power_draw_w,
        xid=sent.xid,
    )


def _whole(megabytes: float | None) -> int | None:
    return None if megabytes is None else round(megabytes)


def _misdated(sent: Sequence[SentSample], now: datetime) -> Iterator[Flaw]:
    for index, one in enumerate(sent):
        if one.recorded_at is None:
            continue
        if one.recorded_at < now - MAX_AGE:
            yield Flaw(f"#/metrics/{index}/recorded_at", "too_old", "The sample is older than 24 hours.")
        elif one.recorded_at > now + MAX_LEAD:
            detail = "The sample lies more than 60 seconds in the future; check the node's clock."
            yield Flaw(f"#/metrics/{index}/recorded_at", "in_the_future", detail)


def _repeated(samples: Sequence[Sample]) -> Iterator[Flaw]:
    seen: dict[tuple[int, datetime], int] = {}
    for index, sample in enumerate(samples):
        first = seen.setdefault((sample.gpu_id, sample.recorded_at), index)
        if first != index:
            detail = f"GPU {sample.gpu_id} has a sample of this time at index {first} already."
            yield Flaw(f"#/metrics/{index}", "repeated_sample", detail)


class QuickSample(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """``SentSample`` that tells what was left out from what is null."""

    gpu_id: Id
    utilization_pct: Percent | UnsetType | None = UNSET
    memory_used_mb: WholeMegabytes | Megabytes | UnsetType | None = UNSET
    memory_total_mb: WholeMegabytes | Megabytes | UnsetType | None = UNSET
    temperature_c: Celsius | UnsetType | None = UNSET
    power_draw_w: Watts | UnsetType | None = UNSET
    xid: Xid | UnsetType | None = UNSET
    recorded_at: Instant | UnsetType | None = UNSET


class QuickBatch(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """``Batch`` of these."""

    metrics: Annotated[list[QuickSample], msgspec.Meta(min_length=1, max_length=MAX_SAMPLES)]


QUICK: Final = msgspec.json.Decoder(QuickBatch)
NO_XID: Final = {0, None}
# A double of this size has no room for a fraction: what is added to it is rounded as ``round`` does, by the processor,
# and the lower half of its bits is the whole number.
ROUNDER: Final = 1.5 * 2**52
LOWER_HALF: Final = 0 if sys.byteorder == "little" else 1


@dataclass(frozen=True, slots=True)
class Columns:
    """A batch that passed the checks, by column, in the integers of the database."""

    gpu_ids: Sequence[int]
    times: Sequence[datetime]
    figures: list[Column]
    one_instant: bool


def decode_quickly(raw: bytes, *, now: datetime) -> Columns | None:
    """The columns of a batch as most are: whole, regular and harmless. None for any other, which ``decode`` looks at.

    It takes nothing that ``decode`` refuses. Regular: each sample has the same fields. Harmless: no XID, and no
    temperature at the limit, so that nothing but the newest reading follows from it.
    """
    try:
        sent = QUICK.decode(raw).metrics
    except (msgspec.MsgspecError, UnicodeDecodeError):  # The latter where an unknown name is no UTF-8.
        return None
    gpu_ids, *columns = zip(*map(msgspec.structs.astuple, sent), strict=True)
    there = [column[0] is not UNSET for column in columns]
    # A name that stood twice in an object would have been read over. No value holds a comma.
    if raw.count(b",") != len(sent) * (1 + sum(there)) - 1:
        return None
    if any(not known and column.count(UNSET) < len(sent) for column, known in zip(columns, there, strict=True)):
        return None
    *figures, times = [column if known else None for column, known in zip(columns, there, strict=True)]
    return _columns(gpu_ids, times, figures, now)


def _columns(gpu_ids: Sequence[int], times: Sequence[Any] | None, figures: list[Any], now: datetime) -> Columns | None:
    utilization, used, total, temperature, power, xid = figures
    if xid is not None and not NO_XID.issuperset(xid):
        return None
    try:
        whole = [_scaled(utilization, 1000.0), _as_sent(used), _as_sent(total), _scaled(temperature, 1000.0)]
        whole += (_scaled(power, 1000.0), _as_sent(xid))
        dated = [now] * len(gpu_ids) if times is None else _dated_quickly(times, now)
    except TypeError:  # A field that only some of the samples have.
        return None
    hot = whole[3] is not None and _hottest(whole[3]) >= TEMPERATURE_LIMIT_C * 1000
    one_instant = dated.count(dated[0]) == len(dated)
    distinct = len(set(gpu_ids)) if one_instant else len(set(zip(gpu_ids, dated, strict=True)))
    ends = dated[:1] if one_instant else dated
    if hot or distinct < len(gpu_ids) or min(ends) < now - MAX_AGE or max(ends) > now + MAX_LEAD:
        return None
    return Columns(gpu_ids, dated, whole, one_instant)


def _dated_quickly(times: Sequence[Any], now: datetime) -> Sequence[datetime]:
    """Raises ``TypeError`` where a time was left out."""
    if times.count(times[0]) == len(times) and times[0] is not None:
        return times
    if UNSET in times:
        raise TypeError
    return [now if at is None else at for at in times]


def _hottest(temperatures: Sequence[int | None]) -> int:
    return max(temperatures) if isinstance(temperatures, array) else max(filter(None, temperatures), default=0)


def _as_sent(values: Sequence[Any] | None) -> Column:
    """Whole numbers as they are; others rounded. Raises ``TypeError`` where a value was left out."""
    try:
        return None if values is None else array("i", values)
    except TypeError:
        return _scaled(values, 1.0)


def _scaled(values: Sequence[Any] | None, scale: float) -> Column:
    """Raises ``TypeError`` where a value was left out."""
    if values is None:
        return None
    try:
        doubles = struct.pack(f"{len(values)}d", *[value * scale + ROUNDER for value in values])
        return array("i", doubles)[LOWER_HALF::2]
    except TypeError:
        scaled = [None if value is None else round(value * scale) for value in values]
        return scaled if scaled.count(None) < len(scaled) else None


# msgspec says what is wrong in a sentence that ends with the place, such as "… - at `$.metrics[3].gpu_id`".
PLACE = re.compile(r"(?P<detail>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
NAMED = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)
CODES = (
    (re.compile(r"`(int|float)` >= "), "min_value"),
    (re.compile(r"`(int|float)` <= "), "max_value"),
    (re.compile(r"of length"), "length"),
    (re.compile(r"RFC3339|timezone"), "invalid_time"),
)


def flaw_of(message: str) -> Flaw:
    """msgspec's sentence in the API's terms: pointer, code and detail."""
    match = PLACE.fullmatch(message)
    detail, path = (match["detail"], match["path"] or "") if match else (message, "")
    pointer = "#" + re.sub(r"\[(\d+)\]", r"/\1", path).replace(".", "/")
    named = NAMED.fullmatch(detail)
    if named:
        known = named["kind"] == "missing required"
        name = named["name"].replace("~", "~0").replace("/", "~1")
        text = "This field is required." if known else "There is no such field here."
        return Flaw(f"{pointer}/{name}", "required" if known else "unknown_field", text)
    code = next((code for pattern, code in CODES if pattern.search(detail)), "invalid")
    return Flaw(pointer, code, f"{detail}.")
