"""What is admitted, by the one statement and by the slower look alike, and what happens in the same instant: real
threads on the real database."""

import contextlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction

from clusters.models import GPU, Cluster, Node
from clusters.services import decommission_cluster, register_gpus, share_gpu_counts
from clusters.tests.factories import make_cluster, make_gpu, make_node
from clusters.tests.threads import after, at_once, in_thread
from gpufleet.common.errors import DomainError, InvalidInput
from gpufleet.common.locks import lock_rows
from jobs import services
from jobs.models import Job, JobEvent, WaitPeriod
from jobs.placement import takes
from jobs.services import NoSuchHardware, OverQuota, TenantInactive, submitting
from jobs.tests.factories import NOW
from tenants.models import Tenant
from tenants.services import delete_tenant, update_tenant
from tenants.tests.factories import alice, bob

MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nobody listens for the doorbell, and no test leaves to the next one what this process knows of models."""
    submitting._models = frozenset()
    with services.doorbell.stand_in(lambda: None):
        yield


def submit(node: Node, tenant: Tenant | None = None, gpu_count: int = 4, **fields: Any) -> Job:
    tenant_id = None if tenant is None else tenant.pk
    return services.submit_job(
        cluster_id=node.cluster_id, tenant_id=tenant_id, name="train", gpu_count=gpu_count, actor="test", now=NOW,
        **fields,
    )  # fmt: skip


def counted(cluster: Cluster) -> dict[str, int] | None:
    """What stands as counted, if anything does."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT model, gpus::int FROM clusters_gpucount, jsonb_each(by_model) AS count (model, gpus)"
                       " WHERE cluster_id = %s", [cluster.pk])  # fmt: skip
        return dict(cursor.fetchall()) or None


def replace_gpus(node: Node, model: str = "A100") -> None:
    """Put other devices into the slots of the node."""
    GPU.objects.filter(node=node).update(uuid="old")
    gpus: Any = [{"gpu_index": slot, "uuid": f"new-{slot}", "model": model} for slot in range(4)]
    register_gpus(node_id=node.pk, gpus=gpus, now=NOW + MINUTE)


def nothing_was_written() -> bool:
    return not (Job.objects.exists() or JobEvent.objects.exists() or WaitPeriod.objects.exists())


@pytest.mark.django_db
class TestAlone:
    """One after the other."""

    def test_a_job_is_one_statement_and_so_are_a_thousand(self, node: Node, django_assert_num_queries: Any) -> None:
        acme = alice()
        submit(node, acme, gpu_type="H100")
        with django_assert_num_queries(1):
            submit(node, acme, gpu_type="H100")
        wishes: list[services.JobWish] = [
            {"cluster_id": node.cluster_id, "tenant_id": acme.pk, "name": f"job-{number}", "gpu_count": 1 + number % 4}
            for number in range(1_000)
        ]
        with django_assert_num_queries(1):
            jobs = services.submit_jobs(wishes=wishes, actor="test", now=NOW)
        stored = Job.objects.in_bulk([job.pk for job in jobs])
        assert [stored[job.pk].name for job in jobs] == [wish["name"] for wish in wishes]
        assert WaitPeriod.objects.count() == JobEvent.objects.count() == Job.objects.count() == 1_002

    def test_what_is_returned_is_what_is_stored(self, node: Node) -> None:
        fields: dict[str, Any] = {"gpu_type": "H100|A100", "priority": 2, "submitted_by": "eve", "image": "a/b:1"}
        fields |= {
            "estimated_duration_min": 90,
            "command": ["sh", "-c", "a 'b' \\ \"c\" %s %(x)s ü"],
            "env": {"A": "?"},
        }
        job = submit(node, alice(), 3, **fields)
        kept = Job.objects.get()
        names = [field.attname for field in Job._meta.concrete_fields]
        assert [getattr(job, name) for name in names] == [getattr(kept, name) for name in names]
        assert {name: getattr(kept, name) for name in fields} == fields
        job.save()
        assert Job.objects.count() == 1
        assert submit(node).command is None
        assert Job.objects.filter(command__isnull=True, env={}).count() == 1

    def test_a_model_that_the_process_has_not_come_across_is_taken(self, node: Node) -> None:
        for _ in range(2):
            assert submit(node, gpu_type="a100|H100").pk
        make_gpu(make_node(node.cluster), model="B200")
        share_gpu_counts([node.cluster_id])  # Somebody else has counted.
        assert submit(node, gpu_count=1, gpu_type="B200").pk

    def test_no_jobs_are_no_jobs(self) -> None:
        assert services.submit_jobs(wishes=[], actor="test", now=NOW) == []

    def test_a_whole_array_is_refused_for_its_first_bad_job(self, node: Node) -> None:
        acme = alice(gpu_quota=2)
        good: services.JobWish = {"cluster_id": node.cluster_id, "name": "good"}
        refusals: list[tuple[dict[str, Any], type[DomainError], dict[str, Any]]] = [
            ({"tenant_id": acme.pk, "gpu_count": 3}, OverQuota, {"needs": 3, "quota": 2}),
            ({"gpu_count": 5}, NoSuchHardware, {"needs": 5, "gpu_type": "", "available": {"H100": 4}}),
            ({"gpu_type": "A100"}, NoSuchHardware, {"needs": 1, "gpu_type": "A100", "available": {"H100": 4}}),
        ]
        for bad, kind, data in refusals:
            wishes: Any = [good, {**good, **bad}, {**good, "gpu_count": 9}]
            with pytest.raises(kind) as refusal:
                services.submit_jobs(wishes=wishes, actor="test", now=NOW)
            assert refusal.value.data == {**data, "index": 1}
        assert nothing_was_written()

    def test_the_statement_and_the_slower_look_agree(self) -> None:
        """On random fleets and wishes: what the rules admit is admitted, and nothing else."""
        chance = random.Random(7)
        models = ["H100", "NVIDIA H100 80GB HBM3", "A100", ""]
        clusters = [make_cluster() for _ in range(3)]
        for cluster in clusters:
            for _ in range(chance.randint(0, 6)):
                retired = NOW + MINUTE if chance.random() < 0.2 else None
                make_gpu(make_node(cluster), model=chance.choice(models), retired_at=retired)
        Cluster.objects.filter(pk=clusters[2].pk).update(decommissioned_at=NOW)
        tenants = [alice(gpu_quota=2), bob(gpu_quota=5, status="inactive")]
        seen = set()
        for _ in range(150):
            cluster, tenant = chance.choice(clusters), chance.choice([None, *tenants])
            gpu_count, gpu_type = (
                chance.randint(1, 4),
                chance.choice(["", "H100", "nvidia h100", "A100|H100", "B200", "|"]),
            )
            counts = [
                GPU.objects.filter(node__cluster=cluster, model=model, retired_at__isnull=True).count()
                for model in models
                if takes(gpu_type, model)
            ]
            allowed = tenant is None or (tenant == tenants[0] and gpu_count <= 2)
            admitted = cluster != clusters[2] and allowed and max(counts, default=0) >= gpu_count
            try:
                submit(Node(cluster=cluster), tenant, gpu_count, gpu_type=gpu_type)
            except DomainError:
                assert not admitted
            else:
                assert admitted
            seen.add(admitted)
        assert seen == {True, False}


@pytest.mark.django_db
class TestCounts:
    """How long a count of a cluster's GPUs stands."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda node: make_gpu(node, model="A100"),
            lambda node: node.gpus.first().state_periods.all().delete() and node.gpus.first().delete(),
            lambda node: node.gpus.filter(gpu_index=0).update(retired_at=NOW),
            lambda node: node.gpus.filter(gpu_index=0).update(model="A100"),
            lambda node: replace_gpus(node),
        ],
    )
    def test_other_hardware_is_counted_anew(self, node: Node, change: Callable[[Node], object]) -> None:
        other = make_gpu().node.cluster
        share_gpu_counts([node.cluster_id, other.pk])
        assert counted(node.cluster) == {"H100": 4}
        change(node)
        assert counted(node.cluster) is None
        assert counted(other) == {"H100": 1}
        in_service = [gpu.model for gpu in GPU.objects.filter(node=node, retired_at__isnull=True)]
        expected = {model: in_service.count(model) for model in in_service}
        assert share_gpu_counts([node.cluster_id]) == {node.cluster_id: expected}

    def test_a_gpus_state_is_no_other_hardware(self, node: Node) -> None:
        share_gpu_counts([node.cluster_id])
        node.gpus.update(state="offline")
        node.gpus.update(model="H100", retired_at=None)
        assert counted(node.cluster) == {"H100": 4}

    def test_an_emptied_table_of_gpus_is_not_counted(self, node: Node) -> None:
        share_gpu_counts([node.cluster_id])
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; TRUNCATE clusters_gpu CASCADE")
        assert counted(node.cluster) is None

    def test_a_cluster_without_gpus_has_none(self) -> None:
        cluster = make_cluster()
        assert share_gpu_counts([cluster.pk]) == {cluster.pk: {}}


REFUSALS: list[tuple[Callable[[Node, Tenant], object], type[DomainError], dict[str, Any]]] = [
    (lambda _, acme: update_tenant(tenant_id=acme.pk, changes={"gpu_quota": 3}), OverQuota, {"needs": 4, "quota": 3}),
    (lambda _, acme: update_tenant(tenant_id=acme.pk, changes={"status": "inactive"}), TenantInactive, {}),
    (lambda _, acme: delete_tenant(tenant_id=acme.pk), InvalidInput, {}),
    (lambda node, _: decommission_cluster(cluster_id=node.cluster_id, now=NOW), InvalidInput, {}),
    (lambda node, _: replace_gpus(node, "A100"), NoSuchHardware, {"needs": 4, "available": {"A100": 4}}),
]


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
    """In the same instant."""

    @pytest.mark.parametrize("is_counted", [True, False])
    @pytest.mark.parametrize(("change", "kind", "data"), REFUSALS)
    def test_a_submission_waits_for_who_changes_what_decides_and_hears_it(
        self, node: Node, change: Callable[[Node, Tenant], object], kind: type[DomainError], data: dict[str, Any],
        is_counted: bool,
    ) -> None:  # fmt: skip
        acme = alice()
        if is_counted:
            with transaction.atomic():
                share_gpu_counts([node.cluster_id])
        with pytest.raises(kind) as refusal:
            after(lambda: change(node, acme), lambda: submit(node, acme, gpu_type="H100"))
        assert data.items() <= refusal.value.data.items()
        assert nothing_was_written()

    @pytest.mark.parametrize(("change", "kind", "data"), REFUSALS)
    def test_who_changes_what_decides_waits_for_a_submission_under_way(
        self, node: Node, change: Callable[[Node, Tenant], object], kind: type[DomainError], data: dict[str, Any]
    ) -> None:
        acme = alice()
        with transaction.atomic():
            share_gpu_counts([node.cluster_id])
        after(lambda: submit(node, acme), lambda: change(node, acme))
        assert Job.objects.count() == 1
        with pytest.raises(DomainError):
            submit(node, Tenant.objects.get(), gpu_type="H100")

    @pytest.mark.parametrize(("change", "kind", "data"), REFUSALS)
    def test_what_has_changed_while_a_submission_waited_is_heard_too(
        self, node: Node, change: Callable[[Node, Tenant], object], kind: type[DomainError], data: dict[str, Any]
    ) -> None:
        """It waits for the first job's tenant; what decides about the second one changes after its snapshot."""
        acme, bluefin = alice(), bob()
        with transaction.atomic():
            share_gpu_counts([node.cluster_id])
        whole = make_gpu().node.cluster
        with transaction.atomic():
            share_gpu_counts([whole.pk])
        wishes: Any = [
            {"cluster_id": whole.pk, "tenant_id": acme.pk, "name": "first"},
            {"cluster_id": node.cluster_id, "tenant_id": bluefin.pk, "name": "second", "gpu_count": 4},
        ]
        if kind is NoSuchHardware:
            wishes[1]["gpu_type"] = "H100"
            submit(node, gpu_type="H100")
        before = Job.objects.count()
        with ThreadPoolExecutor(1) as pool:
            with transaction.atomic():
                update_tenant(tenant_id=acme.pk, changes={"gpu_quota": 7})
                other = pool.submit(in_thread, lambda: services.submit_jobs(wishes=wishes, actor="test", now=NOW))
                assert not wait([other], timeout=0.5).done
                in_thread(lambda: change(node, bluefin))
            with pytest.raises(kind):
                other.result(30)
        assert Job.objects.count() == before

    def test_hardware_that_comes_in_the_same_instant_counts(self, node: Node) -> None:
        with transaction.atomic():
            share_gpu_counts([node.cluster_id])
        more: Any = [{"gpu_index": slot, "model": "H100"} for slot in range(4, 8)]
        after(lambda: register_gpus(node_id=node.pk, gpus=more, now=NOW), lambda: submit(node, gpu_count=8))
        assert Job.objects.get().gpu_count == 8

    def test_who_holds_a_tenant_to_start_or_bill_its_jobs_is_no_hindrance(self, node: Node) -> None:
        acme = alice()
        submit(node, acme)
        with transaction.atomic():
            lock_rows(Tenant.objects.all(), [acme.pk])
            lock_rows(Cluster.objects.all(), [node.cluster_id])
            assert in_thread(lambda: submit(node, acme)).pk

    def test_many_register_and_submit_at_once_and_what_is_counted_is_true(self) -> None:
        cluster, acme = make_cluster(), alice(gpu_quota=100)
        nodes = [make_node(cluster) for _ in range(6)]

        def register(node: Node) -> None:
            for slot in range(8):
                gpus: Any = [{"gpu_index": slot, "model": f"model-{(node.pk + slot) % 3}", "uuid": f"{node.pk}-{slot}"}]
                register_gpus(node_id=node.pk, gpus=gpus, now=NOW)

        def demand() -> None:
            for _ in range(40):
                with contextlib.suppress(NoSuchHardware):  # Nothing was registered yet.
                    submit(nodes[0], acme, 1)

        at_once(*[lambda node=node: register(node) for node in nodes], demand, demand)
        with transaction.atomic():
            assert share_gpu_counts([cluster.pk])[cluster.pk] == {f"model-{number}": 16 for number in range(3)}
