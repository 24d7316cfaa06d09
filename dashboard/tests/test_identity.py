"""Every GPU-second is accounted for: random histories, against an oracle that counts second by second.

The oracle walks the plain history that was drawn, never the database, and shares no code with the ledger.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters.models import GPU, Cluster, GPUStatePeriod
from clusters.tests.factories import make_cluster, make_node
from jobs import ledger
from jobs.ledger import Account, By, Group, Scope, Sold
from jobs.models import AS_ITS_KIND, Allocation, Job, KindWait, WaitPeriod
from jobs.queries import waits_of
from tenants.models import Tenant
from tenants.tests.factories import alice, bob

pytestmark = pytest.mark.django_db

BEGINNING = datetime(2026, 11, 22, 23, 57, 30, tzinfo=UTC)  # Midnight falls into the middle of a history.
SECONDS = 300
STATES = ["available"] * 5 + ["draining", "maintenance", "unhealthy", "offline"]
MODELS = ["NVIDIA H100 80GB", "NVIDIA A100 40GB", ""]
# Which models a job with this preference list takes, by hand.
TAKES = {
    "": set(MODELS),
    "H100": {MODELS[0]},
    "A100|H100": {MODELS[0], MODELS[1]},
    "a100": {MODELS[1]},
    "B200": set(),
}
KINDS = {
    "quota": "held_by_quota",
    "fragmented": "fragmented",
    "capacity": "fragmented",
    "scheduler": "could_have_run",
    "held": None,
    "tenant_inactive": None,
    "cluster_maintenance": None,
}
PRECEDENCE = ["could_have_run", "fragmented", "held_by_quota"]
PRICES = [None, Decimal("2.5"), Decimal("0.000001")]


@dataclass(frozen=True)
class Stretch:
    """Something that was so from second ``low`` to ``high``; None: it still is."""

    low: int
    high: int | None
    what: Any

    def covers(self, second: int) -> bool:
        return self.low <= second and (self.high is None or second < self.high)

    @property
    def during(self) -> DateTimeTZRange:
        return DateTimeTZRange(at(self.low), None if self.high is None else at(self.high))


@dataclass(frozen=True)
class Device:
    node: int
    model: str
    states: list[Stretch]
    allocations: list[Stretch]


@dataclass(frozen=True)
class Kind:
    """What alike jobs have in common; ``tenant`` by its place, 0 is none."""

    cluster: int
    gpu_type: str
    tenant: int = 0
    gpus: int = 1


@dataclass(frozen=True)
class Waiter:
    """Waits for reasons of its own, or where it is AS_ITS_KIND for those of its kind."""

    kind: Kind
    reasons: list[Stretch]


@dataclass(frozen=True)
class History:
    devices: list[Device]
    waiters: list[Waiter]
    told: dict[Kind, list[Stretch]] = field(default_factory=dict)


@dataclass
class World:
    """The rows of a history: the ids that its places have in the database."""

    clusters: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    gpus: list[int] = field(default_factory=list)
    tenants: list[int | None] = field(default_factory=list)


def at(second: int) -> datetime:
    return BEGINNING + timedelta(seconds=second)


NODES_CLUSTER = [0, 0, 1]  # Three nodes, of two clusters.


@st.composite
def stretches(draw: st.DrawFn, what: st.SearchStrategy[Any], most: int) -> list[Stretch]:
    """Disjoint stretches in order, with and without gaps; the last may be open."""
    bounds = sorted(draw(st.sets(st.integers(0, SECONDS), max_size=2 * most)))
    gaps = draw(st.booleans())
    ends = [*bounds, None][1:]
    made = [Stretch(low, high, draw(what)) for low, high in zip(bounds, ends, strict=True)]
    return made[::2] if gaps else made[: most + 1]


devices = st.builds(
    Device,
    node=st.integers(0, 2),
    model=st.sampled_from(MODELS),
    states=stretches(st.sampled_from(STATES), 4),
    allocations=stretches(st.tuples(st.integers(0, 2), st.sampled_from(PRICES)), 3),
)
kinds = st.builds(
    Kind, st.integers(0, 1), st.sampled_from(list(TAKES)), tenant=st.integers(0, 1), gpus=st.integers(1, 2)
)
waiters = st.builds(Waiter, kinds, reasons=stretches(st.sampled_from([*KINDS, AS_ITS_KIND, AS_ITS_KIND]), 3))


def busy_history(seed: int) -> History:
    """A history in which much happens at once: drawing piece by piece seldom makes reasons overlap."""
    dice = random.Random(seed)

    def some(what: Callable[[], Any], most: int, *, chance: float) -> list[Stretch]:
        bounds = sorted(dice.sample(range(SECONDS), dice.randint(2, most)))
        pairs = zip(bounds, [*bounds, None][1:], strict=True)
        return [Stretch(low, high, what()) for low, high in pairs if dice.random() < chance]

    def device() -> Device:
        states = some(lambda: dice.choice(STATES), 6, chance=0.9)
        sold = some(lambda: (dice.randrange(3), dice.choice(PRICES)), 6, chance=0.3)
        return Device(dice.choice([0, 1, 1, 2]), dice.choice(MODELS), states, sold)

    def waiter() -> Waiter:
        codes = ["quota", "fragmented", "scheduler", AS_ITS_KIND, AS_ITS_KIND, dice.choice(list(KINDS))]
        reasons = some(lambda: dice.choice(codes), 6, chance=0.7)
        kind = Kind(dice.choice([0, 0, 0, 1]), dice.choice(["", "", "", *TAKES]), dice.randrange(2), dice.randint(1, 2))
        return Waiter(kind, reasons)

    waiters = [waiter() for _ in range(dice.randint(2, 7))]
    told = {one.kind: some(lambda: dice.choice(list(KINDS)), 6, chance=0.7) for one in waiters}
    return History([device() for _ in range(5)], waiters, told)


told_kinds = st.dictionaries(kinds, stretches(st.sampled_from(list(KINDS)), 3), max_size=4)
histories = st.builds(History, st.lists(devices, max_size=5), st.lists(waiters, max_size=5), told_kinds) | st.builds(
    busy_history, st.integers(0, 2**32)
)
windows = st.tuples(st.integers(-20, SECONDS + 20), st.integers(-20, SECONDS + 20)).map(sorted)
groupings = st.sets(st.sampled_from([By.CLUSTER, By.MODEL, By.NODE, By.GPU, By.DAY, By.SEGMENT]))


def write(history: History) -> World:
    """The history as rows of the ledger."""
    clusters = [make_cluster("one"), make_cluster("two")]
    nodes = [make_node(clusters[place]) for place in NODES_CLUSTER]
    tenants = [None, alice(), bob()]
    gpus = GPU.objects.bulk_create(
        GPU(node=nodes[device.node], gpu_index=place, model=device.model, state="available", registered_at=BEGINNING)
        for place, device in enumerate(history.devices)
    )
    GPUStatePeriod.objects.bulk_create(
        GPUStatePeriod(gpu=gpu, state=stretch.what, during=stretch.during)
        for gpu, device in zip(gpus, history.devices, strict=True)
        for stretch in device.states
    )
    holder = Job.objects.create(cluster=clusters[0], name="holder", submitted_at=BEGINNING)
    Allocation.objects.bulk_create(
        Allocation(
            job=holder,
            gpu=gpu,
            tenant=tenants[stretch.what[0]],
            during=stretch.during,
            price_per_gpu_hour=stretch.what[1],
            rate_id=None if stretch.what[1] is None else 7,
            currency="" if stretch.what[1] is None else "USD",
        )
        for gpu, device in zip(gpus, history.devices, strict=True)
        for stretch in device.allocations
    )
    for kind, reasons in history.told.items():
        KindWait.objects.bulk_create(
            KindWait(code=stretch.what, during=stretch.during, **columns_of(kind, clusters, tenants))
            for stretch in reasons
        )
    for waiter in history.waiters:
        columns = columns_of(waiter.kind, clusters, tenants)
        job = Job.objects.create(name="waiter", submitted_at=BEGINNING, **columns)
        WaitPeriod.objects.bulk_create(
            WaitPeriod(job=job, code=stretch.what, during=stretch.during) for stretch in waiter.reasons
        )
    return World(
        [cluster.pk for cluster in clusters],
        [node.pk for node in nodes],
        [gpu.pk for gpu in gpus],
        [None if tenant is None else tenant.pk for tenant in tenants],
    )


def columns_of(kind: Kind, clusters: list[Cluster], tenants: list[Tenant | None]) -> dict[str, Any]:
    """A job has them, and what its kind is told."""
    cluster, tenant = clusters[kind.cluster], tenants[kind.tenant]
    return {"cluster": cluster, "tenant": tenant, "gpu_type": kind.gpu_type, "gpu_count": kind.gpus}


def codes_of(history: History, waiter: Waiter, second: int) -> list[str]:
    """What the job waits for in that second, if it does."""
    codes: list[str] = [stretch.what for stretch in waiter.reasons if stretch.covers(second)]
    if codes != [AS_ITS_KIND]:
        return codes
    told = [stretch.what for stretch in history.told.get(waiter.kind, []) if stretch.covers(second)]
    return told or ["scheduler"]


def kind_of(history: History, device: Device, second: int) -> str | None:
    """What one second of one GPU was; None when the GPU was not registered."""
    if any(stretch.covers(second) for stretch in device.allocations):
        return "sold"
    state = next((stretch.what for stretch in device.states if stretch.covers(second)), None)
    if state != "available":
        return state
    reasons = {
        KINDS[code]
        for waiter in history.waiters
        if waiter.kind.cluster == NODES_CLUSTER[device.node] and device.model in TAKES[waiter.kind.gpu_type]
        for code in codes_of(history, waiter, second)
    }
    return next((kind for kind in PRECEDENCE if kind in reasons), "no_demand")


def count(
    history: History, world: World, by: set[By], low: int, high: int, cuts: list[int]
) -> dict[Group, Counter[str]]:
    """The oracle: second by second."""
    found: dict[Group, Counter[str]] = {}
    for place, device in enumerate(history.devices):
        for second in range(low, high):
            kind = kind_of(history, device, second)
            if kind is not None:
                group = group_of(world, place, device, by, second, [cut for cut in cuts if low < cut < high])
                found.setdefault(group, Counter()).update([kind, "registered"])
    return found


def group_of(world: World, place: int, device: Device, by: set[By], second: int, cuts: list[int]) -> Group:
    return Group(
        cluster_id=world.clusters[NODES_CLUSTER[device.node]] if By.CLUSTER in by else None,
        model=device.model if By.MODEL in by else None,
        node_id=world.nodes[device.node] if By.NODE in by else None,
        gpu_id=world.gpus[place] if By.GPU in by else None,
        day=date(2026, 11, 22 if second < 150 else 23) if By.DAY in by else None,
        segment=len([cut for cut in set(cuts) if cut <= second]) if By.SEGMENT in by else None,
    )


def as_counts(row: Account) -> dict[str, int]:
    """An account in whole seconds, without its zeros. A fraction of a second would be a mistake in itself."""
    names = [name for name in Account.__dataclass_fields__ if name != "group"]
    values = {name: divmod(getattr(row, name), 1_000_000) for name in names}
    assert all(rest == 0 for _, rest in values.values())
    return {name: seconds for name, (seconds, _) in values.items() if seconds}


def assert_identity(row: Account) -> None:
    assert row.registered == (
        row.sold
        + (row.could_have_run + row.fragmented + row.held_by_quota + row.no_demand)
        + (row.draining + row.maintenance + row.unhealthy + row.offline)
    )


many_examples = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@given(histories, windows, groupings, st.lists(st.integers(0, SECONDS), max_size=2))
@many_examples
def test_the_ledger_agrees_with_counting_second_by_second(
    db: None, history: History, window: list[int], by: set[By], cuts: list[int]
) -> None:
    low, high = window
    with transaction.atomic():
        world = write(history)
        rows = ledger.accounts(Scope(at(low), at(high), cuts=[at(cut) for cut in cuts]), by)
        transaction.set_rollback(True)
    for row in rows:
        assert_identity(row)
    expected = {group: dict(counts) for group, counts in count(history, world, by, low, high, cuts).items()}
    assert {row.group: as_counts(row) for row in rows} == expected


@given(histories)
@settings(many_examples, max_examples=60)
def test_each_jobs_waits_are_its_own_and_those_of_its_kind(db: None, history: History) -> None:
    with transaction.atomic():
        write(history)
        jobs = Job.objects.filter(name="waiter").order_by("pk")
        found = [waits_of(job) for job in jobs]
        transaction.set_rollback(True)
    for waiter, waits in zip(history.waiters, found, strict=True):
        assert all(one.end is None or one.end == other.start or one.end < other.start for one, other in pairwise(waits))
        for second in range(-1, SECONDS + 1):
            now = [one.code for one in waits if one.start <= at(second) and (one.end is None or at(second) < one.end)]
            assert now == codes_of(history, waiter, second)


@given(histories, windows, st.sampled_from([0, 1]), st.sampled_from(MODELS))
@settings(many_examples, max_examples=40)
def test_a_part_of_the_fleet_adds_up_by_itself(
    db: None, history: History, window: list[int], cluster: int, model: str
) -> None:
    low, high = window
    with transaction.atomic():
        world = write(history)
        row = ledger.account(Scope(at(low), at(high), clusters=[world.clusters[cluster]], models=[model]))
        transaction.set_rollback(True)
    assert_identity(row)
    whole = count(history, world, {By.CLUSTER, By.MODEL}, low, high, [])
    assert as_counts(row) == dict(whole.get(Group(cluster_id=world.clusters[cluster], model=model), {}))


@given(histories, windows, groupings, st.sets(st.sampled_from([1, 2])))
@settings(many_examples, max_examples=60)
def test_sold_seconds_by_tenant_and_price_are_those_that_were_held(
    db: None, history: History, window: list[int], by: set[By], who: set[int]
) -> None:
    low, high = window
    scope = Scope(at(low), at(high))
    with transaction.atomic():
        world = write(history)
        rows = ledger.sales(scope, {*by, By.TENANT, By.RATE})
        of_some = ledger.sales(scope, [By.TENANT], tenants=[world.tenants[place] or 0 for place in who])
        whole = ledger.account(scope)
        transaction.set_rollback(True)
    expected: Counter[tuple[Group, int | None, Decimal | None]] = Counter()
    for place, device in enumerate(history.devices):
        for second in range(low, high):
            for stretch in device.allocations:
                if stretch.covers(second):
                    group = group_of(world, place, device, by, second, [])
                    expected[(group, world.tenants[stretch.what[0]], stretch.what[1])] += 1_000_000
    assert {(row.group, row.tenant_id, row.price_per_gpu_hour): row.held for row in rows} == dict(expected)
    assert sum(row.held for row in rows) == whole.sold
    assert {row.tenant_id: row.held for row in of_some} == by_tenant(rows, {world.tenants[place] for place in who})


def by_tenant(rows: list[Sold], tenants: set[int | None]) -> dict[int | None, int]:
    held: Counter[int | None] = Counter()
    for row in rows:
        if row.tenant_id in tenants:
            held[row.tenant_id] += row.held
    return dict(held)


def test_a_kind_waits_for_its_own_reasons_alone() -> None:
    """Not for those of a kind that differs in its tenant, its size or its cluster."""
    others = [Kind(0, "", 0, 1), Kind(0, "", 1, 2), Kind(1, "", 1, 1), Kind(0, "H100", 1, 1)]
    told = {kind: [Stretch(0, None, "scheduler")] for kind in others} | {
        Kind(0, "", 1, 1): [Stretch(0, 20, "quota"), Stretch(20, None, "held")]
    }
    waiter = Waiter(Kind(0, "", 1, 1), [Stretch(0, 60, AS_ITS_KIND)])
    write(History([Device(0, MODELS[0], [Stretch(0, 60, "available")], [])], [waiter], told))
    assert as_counts(ledger.account(Scope(at(0), at(60)))) == {"registered": 60, "held_by_quota": 20, "no_demand": 40}


def test_of_several_reasons_the_first_in_the_order_of_precedence_counts() -> None:
    reasons = [("quota", 0, 40), ("capacity", 10, 30), ("scheduler", 20, 50), ("held", 0, 60)]
    waiters = [Waiter(Kind(0, ""), [Stretch(low, high, code)]) for code, low, high in reasons]
    write(History([Device(0, "H100", [Stretch(0, 60, "available")], [])], waiters))
    assert as_counts(ledger.account(Scope(at(0), at(60)))) == {
        "registered": 60,
        "held_by_quota": 10,  # 0 to 10
        "fragmented": 10,  # 10 to 20
        "could_have_run": 30,  # 20 to 50
        "no_demand": 10,  # 50 to 60
    }


def test_microseconds_are_not_lost() -> None:
    tick = timedelta(microseconds=1)
    with transaction.atomic():
        device = Device(0, "H100", [Stretch(0, None, "available")], [])
        world = write(History([device], []))
        holder = Job.objects.get(name="holder")
        Allocation.objects.create(job=holder, gpu_id=world.gpus[0], during=DateTimeTZRange(at(1) + tick, at(2)))
    row = ledger.account(Scope(at(1), at(3) - tick))
    assert (row.registered, row.sold, row.no_demand) == (1_999_999, 999_999, 1_000_000)


def test_a_window_that_runs_backwards_holds_nothing() -> None:
    write(History([Device(0, "H100", [Stretch(0, None, "available")], [])], []))
    assert ledger.account(Scope(at(5), at(4))) == Account(Group())
    assert ledger.sales(Scope(at(5), at(4))) == []


def test_unsold_time_has_no_tenant() -> None:
    with pytest.raises(ValueError, match="no tenant"):
        ledger.accounts(Scope(at(0), at(1)), [By.TENANT])


@given(histories, windows, st.lists(st.integers(0, SECONDS), max_size=2), st.integers(1, 3), st.randoms())
@settings(many_examples, max_examples=60)
def test_the_costliest_gpus_are_those_that_counting_finds(
    db: None, history: History, window: list[int], cuts: list[int], most: int, dice: random.Random
) -> None:
    low, high = window
    prices = {(segment, model): dice.randrange(1, 10**8) for segment in range(3) for model in MODELS[:2]}
    scope = Scope(at(low), at(high), cuts=[at(cut) for cut in cuts])
    with transaction.atomic():
        world = write(history)
        spent = ledger.unsold(scope, prices, most=most)
        accounts = ledger.accounts(scope, [By.SEGMENT, By.MODEL])
        transaction.set_rollback(True)
    assert set(spent.accounts) == set(accounts)
    found = count(history, world, {By.SEGMENT, By.MODEL, By.GPU}, low, high, cuts)
    for kind in {kind for counts in found.values() for kind in counts} - {"sold", "registered"}:
        times: Counter[int] = Counter()
        worths: Counter[int] = Counter()
        for group, counts in found.items():
            if counts[kind]:
                price = prices.get((group.segment or 0, group.model or ""), 0)
                times[group.gpu_id or 0] += counts[kind] * 1_000_000
                worths[group.gpu_id or 0] += counts[kind] * 1_000_000 * price
        in_order = sorted(times, key=lambda gpu: (-worths[gpu], -times[gpu], gpu))
        largest = [ledger.Costly(gpu, times[gpu], worths[gpu]) for gpu in in_order[:most]]
        assert spent.rankings[kind] == ledger.Ranking(len(times), largest)
    assert len(spent.rankings) == len({kind for counts in found.values() for kind in counts} - {"sold", "registered"})
