"""Asking the ledger: whole days from the rollup where it has them, everything else from the ranges themselves."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any, Final

from django.db import connection
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from psycopg.types.multirange import TimestamptzMultirange

from clusters.models import GPU
from gpufleet.common.snapshots import snapshot
from jobs.ledger.shapes import Account, By, Costly, Group, Ranking, Scope, Slot, Sold, Unsold
from jobs.ledger.statements import ACCOUNTS, ASKED_TYPES, RANKED, SALES
from jobs.models import LedgerBlock, LedgerDay
from jobs.placement import WaitCode, takes

# Which waiting makes an idle second what, in order of precedence. A hold, an inactive tenant and a closed cluster are
# no demand: no GPU, however free, would have been given to such a job.
DEMAND: Final = {
    WaitCode.SCHEDULER: "could_have_run",
    WaitCode.FRAGMENTED: "fragmented",
    WaitCode.CAPACITY: "fragmented",
    WaitCode.RESERVED: "fragmented",
    WaitCode.QUOTA: "held_by_quota",
}
DAY: Final = timedelta(days=1)
# Ten days at once: a report of 90 then reads a quarter of the rows, and little more is kept.
BLOCK: Final = 10 * DAY


def accounts(scope: Scope, by: Collection[By] = (), *, rollup: bool = True) -> list[Account]:
    """What the GPUs' time in the window was spent on, by group; a group without registered time is left out.

    Without ``rollup`` everything is computed from the ranges. Raises ``ValueError`` when asked to tell unsold time
    apart by tenant or rate.
    """
    if {By.TENANT, By.RATE} & set(by):
        raise ValueError("unsold time has no tenant and no rate; ask sales()")
    with snapshot():
        rows = _fetch(ACCOUNTS, _parameters(scope, by, rollup=rollup))
    return [Account(Group(*row[:6]), *row[6:]) for row in rows]


def _parameters(scope: Scope, by: Collection[By], *, rollup: bool) -> dict[str, Any]:
    days = rolled_days(scope) if rollup else {}
    blocks = usable_blocks(scope, days) if By.DAY not in by else []
    return with_demand({**parameters_of(scope, by, days, blocks), **_blocks_of(scope, blocks)})


def account(scope: Scope, *, rollup: bool = True) -> Account:
    """What the GPUs' time in the window was spent on, in one sum; all zero where nothing was registered."""
    return next(iter(accounts(scope, rollup=rollup)), Account(Group()))


def unsold(scope: Scope, prices: Mapping[tuple[int, str], int], *, most: int, rollup: bool = True) -> Unsold:
    """What ``accounts`` says by segment and model, and the ``most`` GPUs behind each kind of unsold time.

    GPUs are ranked by what their time was worth at ``prices``, by (segment, model), and then by the time itself. One
    statement says both, so that they can't disagree.
    """
    ranked_by = {
        "price_segments": [segment for segment, _ in prices],
        "price_models": [model for _, model in prices],
        "prices": list(prices.values()),
        "most": most,
        "each_gpu": True,
    }
    with snapshot():
        rows = _fetch(RANKED, {**_parameters(scope, [By.SEGMENT, By.MODEL], rollup=rollup), **ranked_by})
    totals: dict[tuple[int, str], dict[str, int]] = {}
    counts: dict[str, int] = {}
    largest: dict[str, list[Costly]] = {}
    for kind, model, segment, gpu_id, microseconds, worth, gpus in rows:
        if gpu_id is None:
            totals.setdefault((segment, model), {})[kind] = microseconds
        else:
            counts[kind] = gpus
            largest.setdefault(kind, []).append(Costly(gpu_id, microseconds, int(worth)))
    rankings = {kind: Ranking(gpus, largest[kind]) for kind, gpus in counts.items()}
    accounts = [Account(Group(model=model, segment=segment), **kinds) for (segment, model), kinds in totals.items()]
    return Unsold(accounts, rankings)


def sales(
    scope: Scope, by: Collection[By] = (), *, tenants: Collection[int] | None = None, rollup: bool = True
) -> list[Sold]:
    """The sold part of the same seconds by group, also by tenant and by locked price; of some tenants, or of all."""
    whose = {"every_tenant": tenants is None, "tenants": list(tenants or ())}
    with snapshot():
        # The rollup of sales does not know which GPU it was.
        days = rolled_days(scope) if rollup and not {By.NODE, By.GPU} & set(by) else {}
        rows = _fetch(SALES, {**parameters_of(scope, by, days), **whose})
    return [Sold(Group(*row[:6]), *row[6:]) for row in rows]


def slots(scope: Scope, *, by_day: bool) -> list[Slot]:
    """The window, cut at its ``cuts`` and, where asked, at every UTC midnight; in order, without a gap."""
    start, end = scope.start.astimezone(UTC), scope.end.astimezone(UTC)
    cuts = inner_cuts(scope)
    bounds = sorted({start, end, *cuts, *(_midnights(start, end) if by_day else ())}) if start < end else []
    return [Slot(low, high, sum(cut <= low for cut in cuts)) for low, high in pairwise(bounds)]


def rolled_days(scope: Scope) -> dict[date, list[datetime]]:
    """The days touching the window that the rollup has, each with where it is cut."""
    days = LedgerDay.objects.filter(rolled_at__isnull=False, day__gte=scope.start.astimezone(UTC).date())
    return dict(days.filter(day__lte=scope.end.astimezone(UTC).date()).values_list("day", "cuts"))


def usable_blocks(scope: Scope, rolled: Collection[date]) -> list[date]:
    """The first days of the blocks that lie in the window, that the question does not cut, and that say what their days
    say."""
    made = LedgerBlock.objects.filter(first_day__gte=scope.start.astimezone(UTC).date())
    cuts = inner_cuts(scope)
    blocks = []
    for first_day in made.order_by("first_day").values_list("first_day", flat=True):
        start = datetime.combine(first_day, time.min, UTC)
        end = start + BLOCK
        uncut = not any(start < cut < end for cut in cuts)
        if scope.start <= start and end <= scope.end and uncut and set(days_of(first_day)) <= set(rolled):
            blocks.append(first_day)
    return blocks


def days_of(first_day: date) -> list[date]:
    """The days of a block."""
    return [first_day + number * DAY for number in range(BLOCK // DAY)]


def _blocks_of(scope: Scope, blocks: Collection[date]) -> dict[str, Any]:
    starts = [datetime.combine(first_day, time.min, UTC) for first_day in blocks]
    return {
        "block_days": list(blocks),
        "block_segments": [sum(cut <= start for cut in inner_cuts(scope)) for start in starts],
    }


def parameters_of(
    scope: Scope, by: Collection[By], rolled: Mapping[date, Collection[datetime]], blocks: Collection[date] = ()
) -> dict[str, Any]:
    """What every statement takes: the parts to compute, the days to read from the rollup, and which of the fleet.

    The days of ``blocks`` are neither computed nor read by the day.
    """
    days = [day for day in slots(replace(scope, cuts=()), by_day=bool(rolled)) if _is_kept(day, scope, rolled)]
    cuts = sorted({cut for day in days for cut in rolled[day.day]})
    in_blocks = {day for first_day in blocks for day in days_of(first_day)}
    by_the_day = [day for day in days if day.day not in in_blocks]
    kept = [slot for day in by_the_day for slot in slots(Scope(day.start, day.end, cuts=cuts), by_day=False)]
    whole = {day.day for day in days}
    parts = [part for part in slots(scope, by_day=By.DAY in by or bool(rolled)) if part.day not in whole]
    raw = parts if By.DAY in by else _joined(parts)
    # Where nobody tells days apart, all the parts of one segment are one slot.
    keys = [(part.day if By.DAY in by else None, part.segment) for part in raw]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys), start=1)}
    return {
        "by": [str(dimension) for dimension in by],
        "each_gpu": bool({By.NODE, By.GPU} & set(by)),
        "start": scope.start,
        "end": max(scope.start, scope.end),
        "window": TimestamptzMultirange(DateTimeTZRange(part.start, part.end) for part in raw),
        "clusters": None if scope.clusters is None else list(scope.clusters),
        "models": None if scope.models is None else list(scope.models),
        "starts": [part.start for part in raw],
        "ends": [part.end for part in raw],
        "slots": [places[key] for key in keys],
        "days": [day for day, _ in places],
        "segments": [segment for _, segment in places],
        "rolled_starts": [slot.start for slot in kept],
        "rolled_days": [slot.day for slot in kept],
        "rolled_segments": [sum(cut <= slot.start for cut in inner_cuts(scope)) for slot in kept],
    }


def inner_cuts(scope: Scope) -> list[datetime]:
    """The cuts that lie within the window, each once, in order and in UTC."""
    return sorted({cut.astimezone(UTC) for cut in scope.cuts if scope.start < cut < scope.end})


def _is_kept(day: Slot, scope: Scope, rolled: Mapping[date, Collection[datetime]]) -> bool:
    """Whether the rollup has the day, cut at least where the question cuts it."""
    if not day.is_whole_day or day.day not in rolled:
        return False
    return {cut for cut in inner_cuts(scope) if day.start < cut < day.end} <= set(rolled[day.day])


def with_demand(parameters: dict[str, Any]) -> dict[str, Any]:
    """The same, and what each waiting job's ``gpu_type`` takes by the scheduler's own rule, and what its code means."""
    types = [gpu_type for (gpu_type,) in _fetch(ASKED_TYPES, parameters)]
    models = list(GPU.objects.order_by().values_list("model", flat=True).distinct())
    taken = [(gpu_type, model) for gpu_type in types for model in models if takes(gpu_type, model)]
    return {
        **parameters,
        "types": [gpu_type for gpu_type, _ in taken],
        "taken_models": [model for _, model in taken],
        "codes": [str(code) for code in DEMAND],
        "kinds": list(DEMAND.values()),
    }


def _midnights(start: datetime, end: datetime) -> Iterable[datetime]:
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + DAY
    while midnight < end:
        yield midnight
        midnight += DAY


def _joined(parts: Iterable[Slot]) -> list[Slot]:
    """Neighbours of one segment as one."""
    joined: list[Slot] = []
    for part in parts:
        if joined and (joined[-1].end, joined[-1].segment) == (part.start, part.segment):
            joined.append(Slot(joined.pop().start, part.end, part.segment))
        else:
            joined.append(part)
    return joined


def _fetch(statement: str, parameters: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows
