"""GPUs: which devices sit in a node's slots, and an operator's word on their health."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

import structlog
from django.db import transaction
from django.db.models import Q

from clusters.models import GPU, GPUFault, GPUHealth, Node
from clusters.queries import reportable_nodes
from clusters.services.fleet import share_cluster
from clusters.services.health import carry_faults, quarantine_vanished, set_health
from clusters.services.ledger import circumstances_of, open_ledger, refresh_gpu_states, retire_gpus
from clusters.states import Health, gpu_state
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_rows

logger = structlog.stdlib.get_logger(__name__)


class GpuRetired(Conflict):
    """The GPU is no longer in service."""

    code = "gpu_retired"


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
    the one that it had, and brings along what an operator alone may end (``carry_faults``). No GPUs at all: those that
    it had have vanished, which a node that has said to have some may not say. ``cluster_key_id`` narrows what is found
    to the cluster of that key. Raises ``NotFound``, and ``InvalidInput`` for that, and for a slot or a uuid that stands
    twice.
    """
    slots = _by_slot(gpus)
    node = _lock_node(node_id, cluster_key_id)
    if not slots and node.total_gpus:
        detail = f"Name 1 or more: {node.hostname} says that it has {node.total_gpus} (total_gpus)."
        raise InvalidInput(FieldProblem("#/gpus", "min_length", detail))
    present = _lock_named(node, slots)
    replaced = [slot for slot, gpu in present.items() if _is_gone(gpu, slots)]
    retire_gpus([present.pop(slot).pk for slot in replaced], now=now)
    _update(present, slots)
    new = _insert(node, {slot: fields for slot, fields in slots.items() if slot not in present}, now)
    if new:
        carry_faults(new, now=now)
        logger.info("GPUs registered", node_id=node_id, new=len(new), replaced=len(replaced))
    present.update((gpu.gpu_index, gpu) for gpu in new)
    quarantine_vanished(node_id=node_id, slots=slots, total_gpus=node.total_gpus, now=now)
    return GpuRegistration(gpus=[present[slot] for slot in slots], created=len(new))


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


def _lock_named(node: Node, slots: Mapping[int, GpuFields]) -> dict[int, GPU]:
    """The node's GPUs in service that the message names, by their slots: for a slot, or for a uuid in another one."""
    uuids = {fields.get("uuid", "") for fields in slots.values()} - {""}
    in_service = GPU.objects.filter(node=node, retired_at__isnull=True)
    named = in_service.filter(Q(gpu_index__in=slots) | Q(uuid__in=uuids)).values_list("pk", flat=True)
    return {gpu.gpu_index: gpu for gpu in lock_rows(in_service, named).values()}


def _is_gone(gpu: GPU, slots: Mapping[int, GpuFields]) -> bool:
    """Whether its slot has another device now, or it stands in another slot."""
    if not gpu.uuid:
        return False
    here = slots.get(gpu.gpu_index, {}).get("uuid", "")
    return here != gpu.uuid and (bool(here) or any(fields.get("uuid", "") == gpu.uuid for fields in slots.values()))


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
    gpus = [GPU(**{**fields, "gpu_index": slot, "node": node, "registered_at": now}) for slot, fields in slots.items()]
    if gpus:
        open_ledger(gpus, gpu_state(circumstances_of(gpus[0])))
    return gpus
