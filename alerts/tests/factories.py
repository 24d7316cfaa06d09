"""Rules, incidents and a small fleet for the tests of alerts."""

from datetime import UTC, datetime, timedelta
from typing import Any

from alerts import services
from alerts.models import AlertEvent, AlertRule, Channel

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SECRET = "whsec_" + "c2VjcmV0" * 6


def make_rule(**changes: Any) -> AlertRule:
    """A rule about tenants that hold half of their quota, unless told otherwise."""
    values: dict[str, Any] = {"name": "rule", "type": "quota_breach", "threshold": 50.0, "now": NOW - 60 * MINUTE}
    return services.create_rule(**{**values, **changes})


def make_channel(name: str = "on call", **changes: Any) -> Channel:
    """A webhook that takes everything, unless told otherwise; the row alone, without a look at its target."""
    values: dict[str, Any] = {"kind": "webhook", "target": "https://hooks.example/x", "min_severity": "info"}
    if changes.get("kind", "webhook") == "webhook":
        values["secret"] = SECRET
    return Channel.objects.create(name=name, created_at=NOW, **{**values, **changes})


def statuses() -> list[str]:
    """Of all incidents, the oldest first."""
    return list(AlertEvent.objects.order_by("pk").values_list("status", flat=True))
