"""What state a GPU is in, and whether its readings say that it is healthy. Pure: no database, no framework."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

State = Literal["available", "draining", "maintenance", "unhealthy", "offline"]
Cause = Literal["", "temperature", "xid", "operator"]

# A GPU at or above the limit for this many samples in a row is unhealthy, and healthy again at the first sample
# below the recovery limit. Data-centre boards slow down by themselves at about 90 °C.
TEMPERATURE_LIMIT_C: Final = 90.0
TEMPERATURE_RECOVERED_C: Final = 85.0
HOT_SAMPLES: Final = 3

# XID errors after which NVIDIA's "GPU Debug Guidelines" and "XID Errors" catalogue
# (docs.nvidia.com/deploy/xid-errors, docs.nvidia.com/deploy/gpu-debug-guidelines) ask for a reset, a drain or a
# field diagnosis of the GPU. Errors of the application alone (13, 31, 43, 45 …) are not among them.
FATAL_XIDS: Final = {
    48: "double-bit ECC error",
    63: "ECC page retirement or row remapping recorded",
    64: "ECC page retirement or row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high single-bit ECC error rate",
    94: "contained ECC error",
    95: "uncontained ECC error",
}


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
    """What of a sample bears on health. ``None``: not measured."""

    temperature_c: float | None = None
    xid: int | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """A GPU's health with what the next decision needs: hot samples in a row (at most ``HOT_SAMPLES``), last XID."""

    healthy: bool = True
    cause: Cause = ""
    reason: str = ""
    hot_samples: int = 0
    last_xid: int | None = None


def decide_health(health: Health, readings: Iterable[Reading]) -> Health:
    """Carry the health over further readings, oldest first.

    Heat comes and goes by itself. A fatal XID stays until an operator says otherwise, and so does an operator's
    own word. Some exporters repeat the last XID for ever, so one counts only where it differs from the sample before.
    """
    for reading in readings:
        health = _after_temperature(_after_xid(health, reading.xid), reading.temperature_c)
    return health


def _after_xid(health: Health, xid: int | None) -> Health:
    news = xid != health.last_xid
    health = replace(health, last_xid=xid)
    if xid not in FATAL_XIDS or not news or health.cause in ("operator", "xid"):
        return health
    return replace(health, healthy=False, cause="xid", reason=f"XID {xid}: {FATAL_XIDS[xid]}.")


def _after_temperature(health: Health, temperature: float | None) -> Health:
    if temperature is None:
        return health
    hot = min(health.hot_samples + 1, HOT_SAMPLES) if temperature >= TEMPERATURE_LIMIT_C else 0
    health = replace(health, hot_samples=hot)
    if health.healthy and hot == HOT_SAMPLES:
        reason = f"{temperature:g} °C: {TEMPERATURE_LIMIT_C:g} °C or more in {HOT_SAMPLES} samples in a row."
        return replace(health, healthy=False, cause="temperature", reason=reason)
    if health.cause == "temperature" and temperature < TEMPERATURE_RECOVERED_C:
        return replace(health, healthy=True, cause="", reason="")
    return health
