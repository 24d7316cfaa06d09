"""Group commit: batches that come while another group is being written go into the next one, in one transaction.

One writer thread for each process checks the keys, the GPUs and the idempotency keys of all waiting batches together,
writes their samples in one COPY, and answers after the commit. It judges nothing that is not plain: a batch that it
declines goes the ordinary way, which says why. What follows from the samples (latest readings, heartbeats, the counts
of the rate limit) is gathered and written once a second by another thread; a batch that may move a GPU's health never
comes here.
"""

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final

import structlog
from django.db import connections, transaction
from django.utils import timezone

from apikeys.models import KeyKind, Permission
from apikeys.queries import FleetKey, find_live_fleet_keys
from clusters import ingest
from clusters.frames import frames_of_runs, pack_frames
from clusters.models import GPU
from clusters.partitions import ensure_partitions
from clusters.sampledb import in_transaction_of_samples
from clusters.services import take_news
from clusters.telemetry import Columns
from gpufleet.common.idempotency import Answer, remember_first
from gpufleet.common.throttling import is_over_limit

logger = structlog.stdlib.get_logger(__name__)

LARGEST_GROUP: Final = 64
NEWS_EVERY_S: Final = 1.0
RETIREMENTS_SHOW_WITHIN: Final = timedelta(hours=1)


@dataclass(slots=True)
class Waiting:
    """A batch that waits for its group, and the thread that waits with it."""

    raw_key: str
    accepted: int
    rows: bytes
    gpu_ids: Sequence[int]
    frames: list[tuple[int, datetime, tuple[int, ...]]]
    days: frozenset[date]
    late: set[tuple[int, datetime]]
    cluster_keys: frozenset[int]
    idempotency: tuple[str, str] | None
    now: datetime
    done: threading.Lock = field(default_factory=threading.Lock)
    stored: bool = False


class Inventory:
    """Which node a GPU sits in, and the key of its cluster; neither ever changes. GPUs in service alone."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}

    def places_of(self, gpu_ids: Sequence[int]) -> list[tuple[int, int]] | None:
        """(Node, id of its cluster's key) of each GPU, or None when one of them is not in service."""
        with contextlib.suppress(KeyError):
            return [self._known[gpu_id] for gpu_id in gpu_ids]
        missing = {gpu_id for gpu_id in gpu_ids if gpu_id not in self._known}
        rows = GPU.objects.filter(pk__in=missing, retired_at__isnull=True)
        self._known.update(
            (gpu_id, (node_id, key_id))
            for gpu_id, node_id, key_id in rows.values_list("pk", "node_id", "node__cluster__key_id")
        )
        if missing <= self._known.keys():
            return [self._known[gpu_id] for gpu_id in gpu_ids]
        return None

    def forget(self, gpu_ids: Iterable[int]) -> None:
        """These are retired."""
        for gpu_id in gpu_ids:
            self._known.pop(gpu_id, None)


class GroupWriter:
    """The writer of one process. Its threads start with the first batch, so that it may be made before a fork."""

    def __init__(self) -> None:
        self.inventory = Inventory()
        self._waiting: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()
        # The newest stored frame of each node, and of each set of its GPUs where they are reported apart.
        self._news: dict[tuple[int, tuple[int, ...]], datetime] = {}
        self._requests: Counter[str] = Counter()
        self._over: set[str] = set()
        self._noting = threading.Lock()
        self._days: set[date] = set()
        self._threads: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._closing = threading.Event()

    def store(self, columns: Columns, *, raw_key: str, idempotency: tuple[str, str] | None, now: datetime) -> bool:
        """Wait until the batch is durable, or declined. ``idempotency``: its key and fingerprint."""
        places = self.inventory.places_of(columns.gpu_ids)
        if places is None:
            return False
        frames = list(frames_of_runs(columns, [node_id for node_id, _ in places]))
        waiting = Waiting(
            raw_key=raw_key,
            accepted=len(columns.gpu_ids),
            rows=pack_frames(frames),
            gpu_ids=columns.gpu_ids,
            frames=[(frame.node_id, frame.recorded_at, tuple(frame.gpu_ids)) for frame in frames],
            days=frozenset({frame.recorded_at.date() for frame in frames}),
            late=ingest.late_hours(frames, now=now),
            cluster_keys=frozenset({key_id for _, key_id in places}),
            idempotency=idempotency,
            now=now,
        )
        self._start()
        waiting.done.acquire()
        self._waiting.put(waiting)
        waiting.done.acquire()  # Released by the writer.
        return waiting.stored

    def flush_news(self, *, now: datetime) -> None:
        """Write what follows from the batches so far. What can't be written now is superseded by the next samples."""
        with self._noting:
            news, self._news = self._news, {}
        if news:
            take_news(fresh={(node_id, at) for (node_id, _), at in news.items()}, now=now)

    def _note(self, stored: Sequence[Waiting]) -> None:
        with self._noting:
            for node_id, at, gpu_ids in (frame for waiting in stored for frame in waiting.frames):
                known = self._news.get((node_id, gpu_ids))
                if known is None or known < at:
                    self._news[node_id, gpu_ids] = at

    def close(self) -> None:
        """Write what is left, and end the threads. Nothing may be stored meanwhile or later."""
        self._closing.set()
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        if self._threads:
            return
        with self._starting:
            if not self._threads:
                works = {"metric-writer": self._write_for_ever, "metric-news": self._tell_for_ever}
                threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works.items()]
                for thread in threads:
                    thread.start()
                self._threads = threads

    def _write_for_ever(self) -> None:
        while group := self._next_group():
            began = time.perf_counter()
            _guarded(partial(self._write, group))
            stored = [waiting for waiting in group if waiting.stored]
            self._note(stored)
            for waiting in group:
                waiting.done.release()
            samples = sum(waiting.accepted for waiting in stored)
            ms = round(1000 * (time.perf_counter() - began), 1)
            logger.info("metric group", batches=len(group), stored=len(stored), samples=samples, ms=ms)
        connections.close_all()

    def _next_group(self) -> list[Waiting]:
        """Wait for a batch, and take those that wait behind it. Empty: it is over."""
        first = self._waiting.get()
        group: list[Waiting] = []
        with contextlib.suppress(queue.Empty):
            while first is not None:
                group.append(first)
                if len(group) == LARGEST_GROUP:
                    break
                first = self._waiting.get_nowait()
        return group

    def _tell_for_ever(self) -> None:
        while not self._closing.wait(NEWS_EVERY_S):
            _guarded(partial(self._tell, now=timezone.now()))
        self._threads[0].join()
        _guarded(partial(self._tell, now=timezone.now()))
        connections.close_all()

    def _tell(self, *, now: datetime) -> None:
        if self._requests or self._over:
            self._ask_rates(now=now)
        self.flush_news(now=now)

    def _write(self, group: Sequence[Waiting]) -> None:
        now = max(waiting.now for waiting in group)
        days = {day for waiting in group for day in waiting.days}
        if days - self._days:
            ensure_partitions(days)
            self._days = days
        with transaction.atomic():
            plain = self._plain(group, now)
            with in_transaction_of_samples(savepoint=False):
                ingest.copy_packed(waiting.rows for waiting in plain)
                ingest.mark_hours({mark for waiting in plain for mark in waiting.late})
                ingest.queue_frames([(node_id, at) for waiting in plain for node_id, at, _ in waiting.frames])
        for waiting in plain:
            waiting.stored = True

    def _within_rate(self, group: Sequence[Waiting], keys: Mapping[str, FleetKey]) -> list[Waiting]:
        """Those whose keys were not over their rate when it was last asked, a second ago at most."""
        actors = [f"key:{keys[waiting.raw_key].id}" for waiting in group]
        with self._noting:
            self._requests.update(actors)
        return [waiting for waiting, actor in zip(group, actors, strict=True) if actor not in self._over]

    def _ask_rates(self, *, now: datetime) -> None:
        with self._noting:
            requests, self._requests = self._requests, Counter()
        self._over = {
            actor
            for actor in self._over | requests.keys()
            if is_over_limit(actor=actor, requests=requests[actor], now=now.timestamp())
        }

    def _plain(self, group: Sequence[Waiting], now: datetime) -> list[Waiting]:
        """Those batches of a group about which there is nothing to say."""
        keys = find_live_fleet_keys({waiting.raw_key for waiting in group}, now=now)
        allowed = [waiting for waiting in group if _may_report(keys.get(waiting.raw_key), waiting.cluster_keys)]
        allowed = self._within_rate(allowed, keys)
        retired = ingest.retired_since(now - RETIREMENTS_SHOW_WITHIN)
        if retired:
            self.inventory.forget(retired)
            allowed = [waiting for waiting in allowed if retired.isdisjoint(waiting.gpu_ids)]
        return _first_ones(allowed, keys, now)


def _guarded(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:  # A thread that dies would leave every request waiting.
        logger.exception("metric batches could not be written together")
        with contextlib.suppress(Exception):
            connections.close_all()


def _may_report(key: FleetKey | None, cluster_keys: frozenset[int]) -> bool:
    """``tenants.permissions.REPORT``, for clear cases: a cluster's key for its own GPUs, or a fleet key that writes."""
    if key is None:
        return False
    if key.kind == KeyKind.CLUSTER:
        return cluster_keys == {key.id}
    return bool({Permission.WRITE, Permission.ADMIN} & set(key.permissions))


def _first_ones(group: Sequence[Waiting], keys: Mapping[str, FleetKey], now: datetime) -> list[Waiting]:
    """Those without an idempotency key, and those whose key nobody used before."""
    answers = [
        Answer(f"key:{keys[waiting.raw_key].id}", *waiting.idempotency, 202, {"accepted": waiting.accepted})
        for waiting in group
        if waiting.idempotency is not None
    ]
    new = remember_first(answers, now=now) if answers else set()
    first = []
    for waiting in group:
        if waiting.idempotency is None:
            first.append(waiting)
            continue
        pair = (f"key:{keys[waiting.raw_key].id}", waiting.idempotency[0])
        if pair in new:
            new.remove(pair)
            first.append(waiting)
    return first
