"""Group commit: batches that come while another group is being written go into the next one, in one transaction.

One writer thread for each process checks the keys, the GPUs and the idempotency keys of all waiting batches together,
writes their samples in one COPY, and says so after the commit. It judges nothing that is not plain: a batch that it
declines goes the ordinary way, which says why. What follows from the samples (latest readings, heartbeats, the counts
of the rate limit) is gathered and written once a second by another thread; a batch that may move a GPU's health never
comes here.
"""

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Final

import structlog
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils import timezone

from apikeys.models import KeyKind, Permission
from apikeys.queries import FleetKey, FleetKeysQuery
from clusters import ingest
from clusters.frames import HEADER, TRAILER, Run, pack_runs, runs_of
from clusters.models import GPU
from clusters.partitions import ensure_partitions
from clusters.sampledb import are_together, samples_connection
from clusters.series import HOUR, floor_to
from clusters.services import take_news
from clusters.telemetry import Columns
from gpufleet.common.idempotency import Answer, remember_first
from gpufleet.common.threads import LateThreads
from gpufleet.common.throttling import is_over_limit
from gpufleet.common.wire import Rows, Wire

logger = structlog.stdlib.get_logger(__name__)

LARGEST_GROUP: Final = 64
# Where batches come together, a group waits so long for others: it costs PostgreSQL nearly the same with few as with
# many. A batch that comes alone never waits.
GATHERED_FOR_S: Final = 0.001
NEWS_EVERY_S: Final = 1.0
# Of the time. Where news take longer to write, they rest, so that samples are not kept waiting; but never for long,
# since a node's heartbeats are among them.
NEWS_SHARE: Final = 0.1
LONGEST_REST_S: Final = 4.0
RETIREMENTS_SHOW_WITHIN: Final = timedelta(hours=1)
_WRITER: Final = "metric-writer"


@dataclass(slots=True)
class Waiting:
    """A batch that waits for its group, and whom to tell whether it was stored."""

    raw_key: str
    accepted: int
    rows: bytes
    gpu_ids: Sequence[int]
    # The nodes and instants of its frames, and of each its place among the samples.
    runs: list[Run]
    days: frozenset[date]
    oldest: datetime  # Of its samples' times.
    cluster_keys: set[int]
    idempotency: tuple[str, str] | None
    now: datetime
    then: Callable[[bool], None]
    stored: bool = False


class Inventory:
    """Which node a GPU sits in, and the key of its cluster; neither ever changes. GPUs in service alone."""

    def __init__(self) -> None:
        self._node_of: dict[int, int] = {}
        self._key_of: dict[int, int] = {}  # By node.
        self._loading = threading.Lock()

    def nodes_of(self, gpu_ids: Sequence[int]) -> list[int] | None:
        """The node of each GPU, or None when one of them is not in service."""
        with contextlib.suppress(KeyError):
            return list(map(self._node_of.__getitem__, gpu_ids))
        with self._loading:
            self._load(gpu_ids)
        with contextlib.suppress(KeyError):
            return list(map(self._node_of.__getitem__, gpu_ids))
        return None

    def keys_of(self, node_ids: Iterable[int]) -> set[int]:
        """The keys of the clusters of these nodes."""
        return set(map(self._key_of.__getitem__, node_ids))

    def forget(self, gpu_ids: Iterable[int]) -> None:
        """These are retired."""
        for gpu_id in gpu_ids:
            self._node_of.pop(gpu_id, None)

    def _load(self, gpu_ids: Sequence[int]) -> None:
        """The first time the whole fleet: whoever reports one GPU will be followed by those who report the others."""
        rows = GPU.objects.filter(retired_at__isnull=True)
        if self._node_of:
            rows = rows.filter(pk__in=[gpu_id for gpu_id in gpu_ids if gpu_id not in self._node_of])
        places = list(rows.values_list("pk", "node_id", "node__cluster__key_id"))
        self._key_of.update((node_id, key_id) for _, node_id, key_id in places)
        self._node_of.update((gpu_id, node_id) for gpu_id, node_id, _ in places)


@dataclass(frozen=True, slots=True)
class Seen:
    """What groups saw last: live keys by their texts, and the GPUs retired of late. It is replaced, never changed."""

    keys: Mapping[str, FleetKey]
    retired: frozenset[int]


class Outdated(Exception):
    """Keys or GPUs are not what the last group saw of them, or an hour has ended meanwhile."""


class GroupWriter:
    """The writer of one process. Its threads start with the first batch, so that it may be made before a fork."""

    def __init__(self) -> None:
        self.inventory = Inventory()
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        # By their GPUs, the newest stored frame of each node, and of each set of its GPUs that is reported apart.
        self._news: dict[bytes, Run] = {}
        self._requests: Counter[str] = Counter()
        self._over: set[str] = set()
        self._seen = Seen({}, frozenset())
        self._noting = threading.Lock()
        self._days: set[date] = set()
        self._closing = threading.Event()
        self._threads = LateThreads({_WRITER: self._write_for_ever, "metric-news": self._tell_for_ever})

    def submit(
        self,
        columns: Columns,
        *,
        raw_key: str,
        idempotency: tuple[str, str] | None,
        now: datetime,
        then: Callable[[bool], None],
    ) -> bool:
        """Take a batch; the writer's thread tells ``then`` that it is durable, or declined. False: it is declined at
        once, and nothing is told. ``idempotency``: its key and fingerprint."""
        node_ids = self.inventory.nodes_of(columns.gpu_ids)
        if node_ids is None:
            return False
        runs = runs_of(columns, node_ids)
        instants = {columns.times[0]} if columns.one_instant else set(columns.times)
        waiting = Waiting(
            raw_key=raw_key,
            accepted=len(columns.gpu_ids),
            rows=pack_runs(columns, runs),
            gpu_ids=columns.gpu_ids,
            runs=runs,
            days=frozenset({at.astimezone(UTC).date() for at in instants}),
            oldest=min(instants),
            cluster_keys=self.inventory.keys_of({run.node_id for run in runs}),
            idempotency=idempotency,
            now=now,
            then=then,
        )
        self._threads.start()
        self._waiting.put(waiting)
        return True

    def flush_news(self, *, now: datetime) -> None:
        """Write what follows from the batches so far. What can't be written now is superseded by the next samples."""
        with self._noting:
            news, self._news = self._news, {}
        if news:
            take_news(fresh={(run.node_id, run.recorded_at) for run in news.values()}, now=now)

    def _note(self, stored: Sequence[Waiting]) -> None:
        with self._noting:
            for waiting in stored:
                for run in waiting.runs:
                    known = self._news.get(run.ids)
                    if known is None or known.recorded_at < run.recorded_at:
                        self._news[run.ids] = run

    def close(self) -> None:
        """Write what is left, and end the threads. Nothing may be stored meanwhile or later."""
        self._closing.set()
        self._waiting.put(None)
        self._threads.join()

    def _write_for_ever(self) -> None:
        group: list[Waiting] = []
        while group := self._next_group(gather=len(group) > 1):
            began = time.perf_counter()
            _guarded(partial(self._write, group))
            stored = [waiting for waiting in group if waiting.stored]
            self._note(stored)
            for waiting in group:
                _tell(waiting)
            samples = sum(waiting.accepted for waiting in stored)
            ms = round(1000 * (time.perf_counter() - began), 1)
            logger.info("metric group", batches=len(group), stored=len(stored), samples=samples, ms=ms)
        connections.close_all()

    def _next_group(self, *, gather: bool) -> list[Waiting]:
        """Wait for a batch, and take those that wait behind it. Empty: it is over."""
        first = self._waiting.get()
        if gather:
            time.sleep(GATHERED_FOR_S)
        group: list[Waiting] = []
        with contextlib.suppress(queue.Empty):
            while first is not None:
                group.append(first)
                if len(group) == LARGEST_GROUP:
                    break
                first = self._waiting.get_nowait()
        return group

    def _tell_for_ever(self) -> None:
        rested = 0.0  # When, by the monotonic clock.
        while not self._closing.wait(NEWS_EVERY_S):
            _guarded(partial(self._ask_rates, now=timezone.now()))
            if (began := time.monotonic()) >= rested:
                _guarded(partial(self.flush_news, now=timezone.now()))
                ended = time.monotonic()
                rested = ended + rest_after(ended - began)
        self._threads.join(_WRITER)
        _guarded(partial(self._ask_rates, now=timezone.now()))
        _guarded(partial(self.flush_news, now=timezone.now()))
        connections.close_all()

    def _write(self, group: Sequence[Waiting]) -> None:
        now = max(waiting.now for waiting in group)
        days = {day for waiting in group for day in waiting.days}
        if days - self._days:
            ensure_partitions(days)
            self._days = days
        for waiting in self._store(group, now):
            waiting.stored = True

    def _store(self, group: Sequence[Waiting], now: datetime) -> list[Waiting]:
        """Commit those batches of a group about which there is nothing to say.

        It goes by what the last group saw, and asks in the same round trip whether that still holds; if not, nothing is
        kept of it, and it goes by what it has seen itself.
        """
        try:
            return self._commit(group, now)
        except Outdated:
            Wire(connections[DEFAULT_DB_ALIAS]).run("ROLLBACK")
            return self._commit(group, now)

    def _commit(self, group: Sequence[Waiting], now: datetime) -> list[Waiting]:
        main, samples = Wire(connections[DEFAULT_DB_ALIAS]), Wire(samples_connection())
        seen = self._seen
        query = FleetKeysQuery({waiting.raw_key for waiting in group}, now=now)
        allowed = [waiting for waiting in group if self._is_allowed(waiting, seen)]
        remember = remember_first(_answers(allowed, seen.keys), main, now=now)
        retired = main.text(ingest.RETIRED_SINCE, [now - RETIREMENTS_SHOW_WITHIN])
        asked = ["BEGIN", query.statement(main), retired, *remember]
        plain: list[Waiting] = []

        def data(answered: list[Rows]) -> list[bytes]:
            self._see(query.keys(answered[1]), {int(gpu_id or 0) for (gpu_id,) in answered[2]}, group, seen)
            plain.extend(_first_ones(allowed, seen.keys, answered[-1] if remember else []))
            return [HEADER, *(waiting.rows for waiting in plain), TRAILER]

        def data_in_time(answered: list[Rows]) -> list[bytes]:
            if _are_late(allowed):  # An hour has ended while the statements before the COPY waited.
                raise Outdated
            return data(answered)

        if not are_together():
            rows = data(main.run(*asked))
            samples.run("BEGIN", ingest.COPY, copied=lambda _: rows)
            samples.run(*_after(plain, samples), "COMMIT")
            main.run("COMMIT")
        elif settings.REMOTE_WRITE_URL or _are_late(allowed):
            main.run(*asked, ingest.COPY, copied=data)
            main.run(*_after(plain, main), "COMMIT")
        else:
            main.run(*asked, ingest.COPY, "COMMIT", copied=data_in_time)
        with self._noting:
            self._requests.update(_actor(waiting, seen.keys) for waiting in allowed)
        return plain

    def _is_allowed(self, waiting: Waiting, seen: Seen) -> bool:
        """Whether its key may report its GPUs, by what was seen last, and was not over its rate a second ago."""
        return (
            _may_report(seen.keys.get(waiting.raw_key), waiting.cluster_keys)
            and seen.retired.isdisjoint(waiting.gpu_ids)
            and _actor(waiting, seen.keys) not in self._over
        )

    def _see(self, keys: Mapping[str, FleetKey], retired: set[int], group: Iterable[Waiting], seen: Seen) -> None:
        """Raises ``Outdated`` where the keys of a group or the retirements are not what it went by."""
        raws = {waiting.raw_key for waiting in group}
        if seen.retired == retired and all(seen.keys.get(raw) == keys.get(raw) for raw in raws):
            return
        others = {raw: key for raw, key in seen.keys.items() if raw not in raws}
        self._seen = Seen({**others, **keys}, frozenset(retired))
        self.inventory.forget(retired)
        raise Outdated

    def _ask_rates(self, *, now: datetime) -> None:
        with self._noting:
            requests, self._requests = self._requests, Counter()
        self._over = {
            actor
            for actor in self._over | requests.keys()
            if is_over_limit(actor=actor, requests=requests[actor], now=now.timestamp())
        }


def rest_after(took_s: float) -> float:
    """How many seconds news rest that took so many to write."""
    return min(LONGEST_REST_S, took_s / NEWS_SHARE)


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # A thread that dies would leave every request waiting.
        logger.exception("metric batches could not be written together")
        with contextlib.suppress(Exception):
            connections.close_all()


def _tell(waiting: Waiting) -> None:
    try:
        waiting.then(waiting.stored)
    except Exception:  # Who can't be told is gone; the others of the group are not.
        logger.exception("a metric batch could not be answered")


def _may_report(key: FleetKey | None, cluster_keys: set[int]) -> bool:
    """``tenants.permissions.REPORT``, for clear cases: a cluster's key for its own GPUs, or a fleet key that writes."""
    if key is None:
        return False
    if key.kind == KeyKind.CLUSTER:
        return cluster_keys == {key.id}
    return bool({Permission.WRITE, Permission.ADMIN} & set(key.permissions))


def _answers(group: Sequence[Waiting], keys: Mapping[str, FleetKey]) -> Iterator[Answer]:
    for waiting in group:
        if waiting.idempotency is not None:
            yield Answer(_actor(waiting, keys), *waiting.idempotency, 202, {"accepted": waiting.accepted})


def _actor(waiting: Waiting, keys: Mapping[str, FleetKey]) -> str:
    return f"key:{keys[waiting.raw_key].id}"


def _first_ones(group: Sequence[Waiting], keys: Mapping[str, FleetKey], new: Rows) -> list[Waiting]:
    """Those without an idempotency key, and those whose key nobody used before: ``new`` are actors and keys."""
    unused = {(str(actor or b"", "ascii"), str(key or b"", "ascii")) for actor, key in new}
    first = []
    for waiting in group:
        if waiting.idempotency is not None:
            pair = (_actor(waiting, keys), waiting.idempotency[0])
            if pair not in unused:
                continue
            unused.remove(pair)
        first.append(waiting)
    return first


def _are_late(group: Iterable[Waiting]) -> bool:
    """Whether there are samples of an hour that is over. Asked once the COPY has begun, since only from then on does a
    rollup wait for the transaction."""
    this_hour = floor_to(timezone.now(), HOUR)
    return any(waiting.oldest < this_hour for waiting in group)


def _after(plain: Sequence[Waiting], wire: Wire) -> list[str]:
    """For use after the COPY, for the same reason."""
    frames = [(run.node_id, run.recorded_at) for waiting in plain for run in waiting.runs]
    late = ingest.late_hours(frames, now=timezone.now()) if _are_late(plain) else ()
    return [wire.text(*asked) for asked in ingest.after_frames(frames, late)]
