"""The console's words for fields: as people write them, with units, where Django makes them of the fields' names."""

import re
from typing import Final

from django.apps import apps

# In a name: what stands there, and what people write.
WRITTEN: Final = {
    "gpu": "GPU",
    "gpus": "GPUs",
    "cpu": "CPU",
    "ram": "RAM",
    "ip": "IP",
    "id": "ID",
    "uuid": "UUID",
    "pci": "PCI",
    "xid": "XID",
    "vram": "VRAM",
    "url": "URL",
    "sha256": "SHA-256",
    "api": "API",
    "email": "e-mail",
}
# At its end: a unit.
UNITS: Final = {
    "gb": "GB",
    "mb": "MB",
    "pct": "%",
    "min": "minutes",
    "s": "seconds",
    "seconds": "seconds",
    "w": "W",
    "c": "°C",
}
# What reads badly when it is only a field's name.
NAMED: Final = {
    ("jobs.Job", "estimated_duration_min"): "estimated duration, minutes",
    ("jobs.Job", "env"): "environment",
    ("jobs.Job", "preempt_at"): "preempted at",
    ("jobs.Job", "preempt_for"): "preempted for",
}
# Models whose rows people call otherwise: one, and several.
CALLED: Final = {
    "alerts.AlertEvent": ("incident", "incidents"),
    "common.AuditEntry": ("audit entry", "audit entries"),
    "clusters.NodeWatch": ("heartbeat watch", "heartbeat watches"),
}
OURS: Final = ("common", "tenants", "apikeys", "clusters", "jobs", "billing", "alerts")


def as_written(name: str) -> str:
    """``ram gb`` is RAM, GB; ``gpu count`` is GPU count."""
    words = name.split(" ")
    unit = UNITS.get(words[-1]) if len(words) > 1 else None
    shown = " ".join(WRITTEN.get(word, word) for word in (words[:-1] if unit else words))
    return f"{shown}, {unit}" if unit else shown


def use_words() -> None:
    """Give our models and their fields their words in this process; what migrations know of them stays as it is."""
    for label in OURS:
        for model in apps.get_app_config(label).get_models():
            if model._meta.label in CALLED:
                model._meta.verbose_name, model._meta.verbose_name_plural = CALLED[model._meta.label]
            for field in model._meta.get_fields():
                said = getattr(field, "verbose_name", None)
                if isinstance(said, str) and re.fullmatch(r"[a-z0-9 ]+", said):
                    field.verbose_name = NAMED.get((model._meta.label, field.name), as_written(said))  # type: ignore[union-attr]
