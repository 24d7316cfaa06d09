"""The fleet that ``make up`` shows, for tests whose rows other connections see.

It is seeded once, in a transaction that is taken back; each test then gets the same rows by COPY, which takes a
fraction of the time, and a present of its own: every node heard, every GPU read, and a look of the scheduler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module

from django.apps import apps
from django.db import connection, transaction

from alerts.services import evaluate_rules
from clusters.models import GPU, Node
from clusters.services import record_batch, register_node
from dashboard.demo import seeding
from dashboard.demo.catalog import CLUSTERS
from dashboard.demo.simulation import METRICS_EVERY, Simulation
from jobs import scheduler
from jobs.models import Allocation

# So many batches of readings lie behind the present.
READINGS = 4
HOUSE = ("gpufleet", "tenants", "apikeys", "clusters", "jobs", "billing", "alerts")


@dataclass(frozen=True, slots=True)
class Kept:
    """A table's rows, as COPY writes them."""

    table: str
    columns: str
    rows: bytes


def seed_and_keep(now: datetime) -> list[Kept]:
    """The demo with its whole history, and the rules that the migrations had put there. Leaves nothing behind."""
    with transaction.atomic():
        add_rules()
        assert seeding.seed(now=now) is not None, "rows of another test are in the way"
        kept = [_copy_out(table, columns) for table, columns in _tables()]
        transaction.set_rollback(True)
    return [one for one in kept if one.rows]


@transaction.atomic
def put_back(kept: Sequence[Kept]) -> None:
    """The same rows again, past the triggers that had their say when the services wrote them."""
    with connection.cursor() as cursor:
        # Django's flush passes by the tables without a model of its making, such as those of the metrics.
        cursor.execute(f"TRUNCATE {', '.join(table for table, _ in _tables())}")
        cursor.execute("SET LOCAL session_replication_role = replica")
        for one in kept:
            with cursor.copy(f"COPY {one.table} ({one.columns}) FROM STDIN") as copy:
                copy.write(one.rows)


def add_rules() -> None:
    """The built-in rules of alerts: the tables of a test like these have been emptied."""
    with connection.schema_editor() as editor:
        for name in ("0002_built_in_rules", "0005_rules_of_all_types"):
            import_module(f"alerts.migrations.{name}").add_rules(apps, editor)


def arrive(now: datetime) -> None:
    """The present, as the demo's agents would tell it; and the scheduler has just looked."""
    for node in Node.objects.filter(decommissioned_at=None):
        register_node(cluster_id=node.cluster_id, hostname=node.hostname, fields={}, now=now)
    simulation = _simulation(now - METRICS_EVERY * READINGS)
    busy = dict(Allocation.objects.filter(during__upper_inf=True).values_list("gpu_id", "job_id"))
    for number in reversed(range(READINGS)):
        at = now - METRICS_EVERY * number
        simulation.advance(at, busy=busy)
        for cluster in CLUSTERS:
            samples = [{**one, "recorded_at": at.isoformat()} for one in simulation.readings(cluster.name)]
            record_batch(body={"metrics": samples}, now=at)
    scheduler.run_cycle(now=now)


def overheat(gpu: GPU, now: datetime) -> None:
    """Too hot for longer than the built-in rule allows: as its readings say, and as the rules see it in time."""
    for at in (now - timedelta(seconds=150), now):
        arrive(at - timedelta(seconds=1))
        sample = {"gpu_id": gpu.pk, "recorded_at": at.isoformat(), "temperature_c": 96.0}
        record_batch(body={"metrics": [sample]}, now=at)
        evaluate_rules(now=at)


def held_gpus() -> list[GPU]:
    """The GPUs that jobs hold now."""
    return list(GPU.objects.filter(allocations__during__upper_inf=True).select_related("node").order_by("pk"))


def _simulation(began: datetime) -> Simulation:
    """The demo's GPUs, as cold as they are when their agents begin."""
    simulation = Simulation(list(CLUSTERS), seeding.SEED, began=began)
    for cluster in CLUSTERS:
        for node in cluster.nodes():
            gpus = GPU.objects.filter(node__hostname=node.hostname, retired_at=None).order_by("gpu_index")
            simulation.add_agent(node, cluster.name, [gpu.pk for gpu in gpus])
    return simulation


def _tables() -> list[tuple[str, str]]:
    """The tables of our own apps, each with the columns that can be written."""
    ours = [model._meta.app_label for model in apps.get_models() if model.__module__.partition(".")[0] in HOUSE]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT t.relname, string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum)
              FROM pg_class t JOIN pg_attribute c ON c.attrelid = t.oid AND c.attnum > 0 AND NOT c.attisdropped
             WHERE t.relkind IN ('r', 'p') AND NOT t.relispartition AND c.attgenerated = ''
               AND t.relnamespace = 'public'::regnamespace AND split_part(t.relname, '_', 1) = ANY (%s)
             GROUP BY t.relname ORDER BY t.relname
            """,
            [ours],
        )
        return list(cursor.fetchall())


def _copy_out(table: str, columns: str) -> Kept:
    with connection.cursor() as cursor, cursor.copy(f"COPY (SELECT {columns} FROM {table}) TO STDOUT") as copy:
        return Kept(table, columns, b"".join(bytes(part) for part in copy))
