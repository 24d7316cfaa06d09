"""GPUs: which devices sit in a node's slots, and an operator's word on their health."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

import structlog
from django.db import transaction
from django.db.models import Max

from clusters.models import GPU, GPUFault, GPUHealth, Node
from clusters.queries import holders, reportable_nodes
from clusters.services.fleet import share_cluster
from clusters.services.health import carry_faults, quarantine_vanished, set_health, take_out
from clusters.services.ledger import circumstances_of, open_ledger, refresh_gpu_states
from clusters.states import Health, gpu_state
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_names, lock_rows

logger = structlog.stdlib.get_logger(__name__)


class GpuRetired(Conflict):
    """The GPU is no longer in service."""

    code = "gpu_retired"


class GpuBusy(Conflict):
    """A job holds the GPU."""

    code = "gpu_busy"


class FaultIsOver(Conflict):
    """The word was about a fault that is over; the GPU may have another one by now."""

    code = "fault_is_over"


class GpuFields(TypedDict, total=False):
    """What an agent says of one GPU; of a known one, what it leaves out stays as it is."""

    gpu_index: int
    model: str
    vram_mb: int | None
    uuid: str
    pci_bus_id: str


@dataclass(frozen=True, slots=True)
class GpuRegistration:
    """The GPUs in the order in which they were sent, and how many of them are new."""

    gpus: list[GPU]
    created: int


@transaction.atomic
def register_gpus(
    *, node_id: int, gpus: Sequence[GpuFields], now: datetime, cluster_key_id: int | None = None
) -> GpuRegistration:
    """Say which GPUs sit in which slots of a node; slots that are not named stay as they are.

    A slot's GPU is known again unless both it and the message have a uuid and the two differ: then it is another
    device, and the old one is retired with its history. A device that the message names in another slot is retired in
    the one that it had, and so is one that another node of the cluster has in service: a card is in one place, and a
    job that holds it there has lost it. It brings along what an operator alone may end (``carry_faults``). In another
    cluster nothing is retired, since a uuid is easily made up: both are in service, and the log says so. A GPU that was
    retired and is named again begins anew.

    No GPUs at all: those that it had have vanished, which a node that has said to have some may not say.
    ``cluster_key_id`` narrows what is found to the cluster of that key. Raises ``NotFound``, and ``InvalidInput`` for
    that, and for a slot or a uuid that stands twice.
    """
    slots = _by_slot(gpus)
    node = _lock_node(node_id, cluster_key_id)
    if not slots and node.total_gpus:
        detail = f"Name 1 or more: {node.hostname} says that it has {node.total_gpus} (total_gpus)."
        raise InvalidInput(FieldProblem("#/gpus", "min_length", detail))
    named = _lock_named(node, slots)
    gone = {gpu.pk: why for gpu in named if (why := _why_gone(gpu, node, slots))}
    take_out(gone, now=now)
    present = {gpu.gpu_index: gpu for gpu in named if gpu.pk not in gone}
    _update(present, slots)
    new = _insert(node, {slot: fields for slot, fields in slots.items() if slot not in present}, now)
    if new:
        carry_faults(new, now=now)
        _tell_of_doubles(node, new)
        logger.info("GPUs registered", node_id=node_id, new=len(new), retired=gone)
    present.update((gpu.gpu_index, gpu) for gpu in new)
    quarantine_vanished(node_id=node_id, slots=slots, total_gpus=node.total_gpus, now=now)
    return GpuRegistration(gpus=[present[slot] for slot in slots], created=len(new))


@transaction.atomic
def retire_gpu(*, gpu_id: int, reason: str, actor: str, now: datetime) -> bool:
    """Take a GPU that is gone for good out of service; its rows and its ledger stay. Returns whether it was in service.

    Its slot is free, and an agent that names the card again registers it anew, with another id and with the fault that
    an operator has not ended. Holding the GPU keeps it from being given to a job in between. Raises ``NotFound``, and
    ``GpuBusy`` while a job holds it.
    """
    cluster_id = GPU.objects.filter(pk=gpu_id).values_list("node__cluster", flat=True).first()
    if cluster_id is None:
        raise NotFound
    with suppress(NotFound):  # Of a cluster that has ended no GPU is in service.
        share_cluster(cluster_id)
    if not lock_rows(GPU.objects.filter(retired_at__isnull=True), [gpu_id]):
        return False
    holder = holders.ask([gpu_id]).get(gpu_id)
    if holder is not None:
        detail = f"Job {holder.job_id} holds GPU {gpu_id}; end it first."
        raise GpuBusy(detail, job_id=holder.job_id)
    take_out({gpu_id: f"{reason} (by {actor})"[:500]}, now=now)
    logger.info("GPU retired", gpu_id=gpu_id, actor=actor)
    return True


@transaction.atomic
def mark_health(*, gpu_id: int, health: GPUHealth, reason: str, now: datetime, fault_id: int | None = None) -> None:
    """Take an operator's word that a GPU is healthy or not. Readings do not overrule "unhealthy".

    Whoever names the fault session that the word is about is heard only while it lasts. Raises ``NotFound``,
    ``GpuRetired`` and ``FaultIsOver``.
    """
    if fault_id is not None:
        _check_fault(gpu_id, fault_id)
    if mark_many(gpu_ids=[gpu_id], health=health, reason=reason, now=now):
        return
    if GPU.objects.filter(pk=gpu_id).exists():
        raise GpuRetired(f"GPU {gpu_id} is retired.")
    raise NotFound


@transaction.atomic
def mark_many(*, gpu_ids: Collection[int], health: GPUHealth, reason: str, now: datetime) -> int:
    """As ``mark_health``, for many GPUs at once. Returns how many of them are in service."""
    gpus = lock_rows(GPU.objects.filter(retired_at__isnull=True), gpu_ids)
    unhealthy = health == GPUHealth.UNHEALTHY
    wanted = Health(healthy=False, cause="operator", reason=reason) if unhealthy else Health()
    set_health(dict.fromkeys(gpus, wanted), gpus, now=now)
    refresh_gpu_states(GPU.objects.filter(pk__in=gpus), now=now)
    logger.info("GPU health marked", gpu_ids=list(gpus), health=health)
    return len(gpus)


def _check_fault(gpu_id: int, fault_id: int) -> None:
    lock_rows(GPU.objects.all(), [gpu_id])
    if not GPUFault.objects.filter(pk=fault_id, gpu=gpu_id, ended_at=None).exists():
        raise FaultIsOver(f"Fault {fault_id} of GPU {gpu_id} is over; look at the GPU again.")


def _by_slot(gpus: Sequence[GpuFields]) -> dict[int, GpuFields]:
    """The GPUs by slot: the one they name, or their place. Raises ``InvalidInput``."""
    slots = [fields.get("gpu_index", place) for place, fields in enumerate(gpus)]
    uuids = [fields.get("uuid", "") for fields in gpus]
    slot_count, uuid_count = Counter(slots), Counter(uuids)
    problems = []
    for place, (slot, uuid) in enumerate(zip(slots, uuids, strict=True)):
        if slot_count[slot] > 1:
            detail = f"Slot {slot} stands {slot_count[slot]} times."
            problems.append(FieldProblem(f"#/gpus/{place}/gpu_index", "repeated_slot", detail))
        if uuid and uuid_count[uuid] > 1:
            detail = f"{uuid} stands {uuid_count[uuid]} times."
            problems.append(FieldProblem(f"#/gpus/{place}/uuid", "repeated_uuid", detail))
    if problems:
        raise InvalidInput(*problems)
    return dict(zip(slots, gpus, strict=True))


def _lock_node(node_id: int, cluster_key_id: int | None) -> Node:
    """The node, locked, its cluster's status held as it is. Raises ``NotFound``."""
    reportable = reportable_nodes(cluster_key_id)
    cluster_id = reportable.filter(pk=node_id).values_list("cluster_id", flat=True).first()
    if cluster_id is None:
        raise NotFound
    share_cluster(cluster_id)
    return lock_rows(reportable.select_related("cluster"), [node_id])[node_id]


def _lock_named(node: Node, slots: Mapping[int, GpuFields]) -> list[GPU]:
    """The GPUs in service that the message names: the node's for a slot, and for a uuid all of the cluster's.

    Of two nodes that name one device at once, the later one must see what the other inserts, hence the names' locks.
    """
    uuids = _uuids_of(slots)
    lock_names(f"GPU {uuid} of cluster {node.cluster_id}" for uuid in uuids)
    in_service = GPU.objects.filter(retired_at__isnull=True)
    in_slots = in_service.filter(node=node, gpu_index__in=slots)
    devices = in_service.filter(node__cluster=node.cluster_id, uuid__in=uuids)
    named = [*in_slots.values_list("pk", flat=True), *devices.values_list("pk", flat=True)]
    return list(lock_rows(in_service, named).values())


def _uuids_of(slots: Mapping[int, GpuFields]) -> set[str]:
    return {fields.get("uuid", "") for fields in slots.values()} - {""}


def _why_gone(gpu: GPU, node: Node, slots: Mapping[int, GpuFields]) -> str:
    """Its slot has another device now, or it stands elsewhere. Empty: it is where it was."""
    if gpu.node_id != node.pk:
        return "Its card was registered on another node of the cluster."
    here = slots.get(gpu.gpu_index, {}).get("uuid", "")
    if not gpu.uuid or here == gpu.uuid:
        return ""
    if gpu.uuid in _uuids_of(slots):
        return "Its card was registered in another slot."
    return "Another card was registered in its slot." if here else ""


def _update(present: Mapping[int, GPU], slots: Mapping[int, GpuFields]) -> None:
    for slot, gpu in present.items():
        changed = [name for name, value in slots[slot].items() if getattr(gpu, name) != value]
        if "uuid" in changed and not slots[slot]["uuid"]:
            changed.remove("uuid")  # An agent that can't read the uuid does not make us forget it.
        for name in changed:
            setattr(gpu, name, slots[slot][name])  # type: ignore[literal-required]  # a name of the same dict
        if changed:
            gpu.save(update_fields=changed)


def _insert(node: Node, slots: Mapping[int, GpuFields], now: datetime) -> list[GPU]:
    began = _gone_until(node, slots, now)
    gpus = []
    for slot, fields in slots.items():
        since = began.get(fields.get("uuid", ""), now)
        gpus.append(GPU(**{**fields, "gpu_index": slot, "node": node, "registered_at": since}))
    if gpus:
        open_ledger(gpus, gpu_state(circumstances_of(gpus[0])))
    return gpus


def _gone_until(node: Node, slots: Mapping[int, GpuFields], now: datetime) -> dict[str, datetime]:
    """Clocks differ: the devices that were retired in this cluster later than now. No second of theirs counts twice."""
    before = GPU.objects.filter(node__cluster=node.cluster_id, uuid__in=_uuids_of(slots), retired_at__gt=now)
    return dict(before.order_by().values_list("uuid").annotate(Max("retired_at")))


def _tell_of_doubles(node: Node, new: Sequence[GPU]) -> None:
    """Log which of the devices another cluster has too: moved, or made up. A person retires the wrong one."""
    uuids = [gpu.uuid for gpu in new if gpu.uuid]
    others = GPU.objects.filter(uuid__in=uuids, retired_at__isnull=True).exclude(node__cluster=node.cluster_id)
    doubles = dict(others.values_list("pk", "uuid"))
    if doubles:
        logger.warning("GPUs are registered in two clusters", node_id=node.pk, elsewhere=doubles)
