"""What state a GPU is in, and whether its readings say that it is healthy. Pure: no database, no framework."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from clusters.xids import FATAL_XIDS

State = Literal["available", "draining", "maintenance", "unhealthy", "offline"]
Cause = Literal["", "temperature", "xid", "memory", "vanished", "operator"]

# A GPU at or above the limit for its time is unhealthy, and healthy again when it was below the recovery limit for as
# long. Data-centre boards slow down by themselves at about 90 °C.
TEMPERATURE_LIMIT_C: Final = 90.0
TEMPERATURE_RECOVERED_C: Final = 85.0
GPUS_OF_A_MACHINE: Final = 8

# A card that reports less than this share of the memory that it had has lost some.
MEMORY_LEFT: Final = 0.98


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Everything that decides the state of a GPU in service, as it is now."""

    cluster_in_maintenance: bool = False
    node_intent: Literal["active", "draining", "maintenance"] = "active"
    node_reason: str = ""
    node_silent: bool = False
    last_heartbeat_at: datetime | None = None
    healthy: bool = True
    health_reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A state and, for people, why."""

    state: State
    reason: str = ""


def gpu_state(now_is: Circumstances) -> Verdict:
    """The state of a GPU. Precedence: maintenance > offline > unhealthy > draining > available."""
    if now_is.cluster_in_maintenance:
        return Verdict("maintenance", "The cluster is in maintenance.")
    if now_is.node_intent == "maintenance":
        return Verdict("maintenance", now_is.node_reason)
    if now_is.node_silent:
        return Verdict("offline", _silence(now_is.last_heartbeat_at))
    if not now_is.healthy:
        return Verdict("unhealthy", now_is.health_reason)
    if now_is.node_intent == "draining":
        return Verdict("draining", now_is.node_reason)
    return Verdict("available")


def _silence(since: datetime | None) -> str:
    return f"No heartbeat since {since:%Y-%m-%dT%H:%M:%SZ}." if since else "No heartbeat."


@dataclass(frozen=True, slots=True)
class Reading:
    """What of a sample bears on health, and when it was taken. ``None``: not measured."""

    at: datetime
    temperature_c: float | None = None
    xid: int | None = None
    memory_total_mb: int | None = None


@dataclass(frozen=True, slots=True)
class HeatRule:
    """For how long heat must last, and the coolness that ends it; and the longest time between two samples, and from
    one to now, for which the samples speak. Who was not seen for longer was not seen hot, nor cool.
    """

    lasts: timedelta
    gap: timedelta


@dataclass(frozen=True, slots=True)
class Streak:
    """The first and the last of the samples without a gap that were all hot; or, of a GPU that was, all cool."""

    hot: bool
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Health:
    """A GPU's health with what the next decision needs: the streak that it is in, the last XID, and how much memory it
    had.
    """

    healthy: bool = True
    cause: Cause = ""
    reason: str = ""
    streak: Streak | None = None
    last_xid: int | None = None
    memory_total_mb: int | None = None


def decide_health(health: Health, readings: Iterable[Reading], *, rule: HeatRule, now: datetime) -> Health:
    """Carry the health over further readings, oldest first, none of them later than ``now``.

    Heat comes and goes by itself, and what it was long ago says nothing of now: samples that were kept go into a
    streak, and only a fresh one moves the GPU. A fatal XID and lost memory stay until an operator says otherwise, and
    so does an operator's own word. The XID of a GPU that has vanished meanwhile says why, and that it is not well when
    it is back. Some exporters repeat the last XID for ever, so one counts only where it differs from the sample
    before; and lost memory is told once, when it shrinks.
    """
    for reading in readings:
        health = _after_memory(_after_xid(health, reading.xid), reading.memory_total_mb)
        if reading.temperature_c is not None:
            health = _after_temperature(health, reading.at, reading.temperature_c, rule, now)
    return health


def _after_xid(health: Health, xid: int | None) -> Health:
    news = xid != health.last_xid
    health = replace(health, last_xid=xid)
    if xid not in FATAL_XIDS or not news or health.cause not in ("", "temperature", "vanished"):
        return health
    return replace(health, healthy=False, cause="xid", reason=f"XID {xid}: {FATAL_XIDS[xid]}.")


def _after_memory(health: Health, total: int | None) -> Health:
    if total is None:
        return health
    before = health.memory_total_mb
    health = replace(health, memory_total_mb=total)
    if before is None or total >= before * MEMORY_LEFT or health.cause not in ("", "temperature"):
        return health
    return replace(health, healthy=False, cause="memory", reason=f"Its memory shrank from {before:,} to {total:,} MB.")


def may_quarantine(*, fleet: int, unhealthy: int, share: float) -> bool:
    """Whether one more GPU may be taken away without a person: not beyond a share of the fleet's GPUs, but always as
    many as one machine has. What seems to hit more at once is more likely the fault of whoever reports it.
    """
    return unhealthy < max(GPUS_OF_A_MACHINE, share * fleet)


def _after_temperature(health: Health, at: datetime, temperature: float, rule: HeatRule, now: datetime) -> Health:
    streak = _streak(health, at, temperature, rule)
    health = replace(health, streak=streak)
    if streak is None or streak.until - streak.since < rule.lasts or now - at > rule.gap:
        return health
    if not streak.hot:
        return replace(health, healthy=True, cause="", reason="", streak=None)
    if not health.healthy:
        return health
    lasted = f"{(streak.until - streak.since).total_seconds():.0f} s"
    reason = f"{temperature:g} °C: {TEMPERATURE_LIMIT_C:g} °C or more for {lasted}."
    return replace(health, healthy=False, cause="temperature", reason=reason)


def _streak(health: Health, at: datetime, temperature: float, rule: HeatRule) -> Streak | None:
    """The streak that ends with this sample. Coolness matters only to a GPU that heat took out of service."""
    hot = temperature >= TEMPERATURE_LIMIT_C
    if not hot and (temperature >= TEMPERATURE_RECOVERED_C or health.cause != "temperature"):
        return None
    before = health.streak
    goes_on = before is not None and before.hot == hot and at - before.until <= rule.gap
    return Streak(hot, before.since if before and goes_on else at, at)
