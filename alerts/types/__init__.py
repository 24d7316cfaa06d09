"""The types of rules. ``TYPES`` is in the order of evaluation: what explains others comes first."""

from collections.abc import Mapping

from alerts.types.base import AlertType, Place, Reading
from alerts.types.hardware import GpuTemperature, HealthDegraded, NodeSilent, UnpricedGpu
from alerts.types.money import InvoiceSyncFailed, LeakageRate
from alerts.types.past import Points, Window
from alerts.types.work import JobOverrun, QueueStalled, QuotaBreach, SchedulerLate, UtilizationLow

__all__ = ["TYPES", "AlertType", "Place", "Points", "Reading", "Window"]

TYPES: Mapping[str, AlertType] = {
    kind.code: kind
    for kind in (
        NodeSilent(),
        SchedulerLate(),
        HealthDegraded(),
        GpuTemperature(),
        UtilizationLow(),
        QueueStalled(),
        JobOverrun(),
        QuotaBreach(),
        LeakageRate(),
        UnpricedGpu(),
        InvoiceSyncFailed(),
    )
}
