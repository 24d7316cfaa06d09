"""The only writer of a GPU's health: the GPU and its fault session move together, here."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from django.conf import settings
from django.db.models import Q

from clusters.models import GPU, GPUFault, GPUHealth, HealthCause
from clusters.services.ledger import refresh_gpu_states, retire_gpus
from clusters.states import Health, may_quarantine

logger = structlog.stdlib.get_logger(__name__)

# What an operator alone may end, and what passes by itself.
OPERATORS_CAUSES = (HealthCause.XID, HealthCause.MEMORY, HealthCause.OPERATOR)
LASTING_CAUSES = (HealthCause.TEMPERATURE, HealthCause.VANISHED)
TOLD_AGAIN_AFTER = timedelta(hours=1)


def set_health(wanted: Mapping[int, Health], locked: Mapping[int, GPU], *, now: datetime) -> None:
    """Make this the health of GPUs that the caller has locked, with their fault sessions; the states are the caller's.

    A GPU that was healthy is taken out of service without an operator only up to ``QUARANTINE_MAX_SHARE``. Beyond it
    the session is kept as held back, for a person to see.
    """
    changed = {gpu_id: health for gpu_id, health in wanted.items() if _differs(locked[gpu_id], health)}
    held_back = _beyond_the_share(changed, locked)
    told = _told_of_late({gpu_id: changed[gpu_id] for gpu_id in held_back}, now)
    GPUFault.objects.filter(gpu_id__in=changed.keys() - held_back, ended_at=None).update(ended_at=now)
    GPUFault.objects.bulk_create(
        GPUFault(
            gpu_id=gpu_id,
            cause=health.cause,
            reason=health.reason,
            began_at=now,
            ended_at=now if gpu_id in held_back else None,
            held_back=gpu_id in held_back,
        )
        for gpu_id, health in changed.items()
        if not health.healthy and gpu_id not in told
    )
    moved = [locked[gpu_id] for gpu_id in changed.keys() - held_back]
    for gpu in moved:
        health = changed[gpu.pk]
        gpu.health = GPUHealth.HEALTHY if health.healthy else GPUHealth.UNHEALTHY
        gpu.health_cause, gpu.health_reason = health.cause, health.reason
    GPU.objects.bulk_update(moved, ["health", "health_cause", "health_reason"])
    for gpu_id, health in changed.items():
        if gpu_id in told:
            continue
        logger.info("GPU health decided", gpu_id=gpu_id, cause=health.cause, held_back=gpu_id in held_back)


def _told_of_late(held_back: Mapping[int, Health], now: datetime) -> set[int]:
    """GPUs of which the same was held back within the hour. Heat, and that a GPU has vanished, are found again with
    each report, while an XID and lost memory are news.
    """
    lasting = {gpu_id for gpu_id, health in held_back.items() if health.cause in LASTING_CAUSES}
    rows = GPUFault.objects.filter(gpu_id__in=lasting, held_back=True, began_at__gt=now - TOLD_AGAIN_AFTER)
    return {gpu_id for gpu_id, cause in rows.values_list("gpu_id", "cause") if cause == held_back[gpu_id].cause}


def quarantine_vanished(*, node_id: int, slots: Collection[int], total_gpus: int, now: datetime) -> None:
    """What a node's registration says of the GPUs that it names and of those that it does not.

    A registration of as many GPUs as the node says to have is complete: a GPU in service that is not in it has
    vanished, until one names it again. A shorter one is about those that it names alone, and so is one of a node
    that never said how many it has, unless it names none. The node is locked by the caller.
    """
    in_service = GPU.objects.filter(node=node_id, retired_at__isnull=True)
    back = in_service.filter(gpu_index__in=slots, health_cause=HealthCause.VANISHED)
    gone = in_service.exclude(gpu_index__in=slots).filter(health=GPUHealth.HEALTHY)
    complete = len(slots) >= total_gpus if total_gpus else not slots
    affected = in_service.filter(Q(pk__in=back) | Q(pk__in=gone)) if complete else back
    locked = {gpu.pk: gpu for gpu in affected.order_by("pk").select_for_update(no_key=True)}
    if not locked:
        return
    vanished = Health(healthy=False, cause="vanished", reason="Its node's registration no longer names it.")
    wanted = {pk: Health() if gpu.health_cause == HealthCause.VANISHED else vanished for pk, gpu in locked.items()}
    set_health(wanted, locked, now=now)
    refresh_gpu_states(GPU.objects.filter(pk__in=locked), now=now)


def take_out(reasons: Mapping[int, str], *, now: datetime) -> None:
    """Take GPUs, which the caller has locked, out of service for good, each for its reason.

    Heat and absence are over with them. What an operator alone may end stays open: the card may come back with it.
    """
    retire_gpus(reasons, now=now)
    sessions = GPUFault.objects.filter(gpu__in=reasons, ended_at=None, cause__in=LASTING_CAUSES)
    sessions.update(ended_at=now)


def carry_faults(new: Sequence[GPU], *, now: datetime) -> None:
    """A device is known by its uuid: in another slot, or node, it is no healthier than it was.

    Of new GPUs, those whose device has an open session that an operator alone may end begin with it. It goes on with
    the new GPU, since nobody can speak of a retired one.
    """
    by_uuid = {gpu.uuid: gpu for gpu in new if gpu.uuid}
    sessions = GPUFault.objects.filter(gpu__uuid__in=by_uuid, ended_at=None, cause__in=OPERATORS_CAUSES)
    before = {by_uuid[one.gpu.uuid].pk: one for one in sessions.select_related("gpu").order_by("pk")}
    if not before:
        return
    sessions.filter(gpu__retired_at__isnull=False).update(ended_at=now)
    wanted = {pk: Health(healthy=False, cause=one.cause, reason=one.reason) for pk, one in before.items()}  # type: ignore[arg-type]  # one of HealthCause's values
    set_health(wanted, {gpu.pk: gpu for gpu in new}, now=now)
    refresh_gpu_states(GPU.objects.filter(pk__in=before), now=now)


def _differs(gpu: GPU, health: Health) -> bool:
    return (gpu.health == GPUHealth.HEALTHY, gpu.health_cause, gpu.health_reason) != (
        health.healthy,
        health.cause,
        health.reason,
    )


def _beyond_the_share(changed: Mapping[int, Health], locked: Mapping[int, GPU]) -> set[int]:
    """The GPUs that would leave service by no person's word when enough have."""
    taken = sorted(
        gpu_id
        for gpu_id, health in changed.items()
        if not health.healthy and health.cause != "operator" and locked[gpu_id].health == GPUHealth.HEALTHY
    )
    if not taken:
        return set()
    in_service = GPU.objects.filter(retired_at__isnull=True)
    fleet = in_service.count()
    unhealthy = in_service.filter(health=GPUHealth.UNHEALTHY).exclude(health_cause=HealthCause.OPERATOR).count()
    share = settings.QUARANTINE_MAX_SHARE
    beyond = {
        gpu_id
        for place, gpu_id in enumerate(taken)
        if not may_quarantine(fleet=fleet, unhealthy=unhealthy + place, share=share)
    }
    if beyond:
        logger.error("automatic quarantine is held back", gpu_ids=sorted(beyond), unhealthy=unhealthy, fleet=fleet)
    return beyond
