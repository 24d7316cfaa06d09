"""Filters of the lists, by the fields' own names."""

from django.db.models import QuerySet
from django.http import QueryDict
from django_filters import rest_framework as filters

from alerts.models import (
    AlertEvent,
    AlertRule,
    Channel,
    ChannelKind,
    EventStatus,
    MaintenanceWindow,
    RuleType,
    Severity,
)
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.query import IdFilter, YesNoFilter

ORDERS = ("newest", "cost")


def wants_rank(params: QueryDict) -> bool:
    """Whether incidents are to be ranked by cost. Raises ``InvalidInput``: a rank has one page."""
    order = params.get("order", "newest")
    if order not in ORDERS:
        raise InvalidInput(FieldProblem("?order", "unknown_order", f"order is one of {', '.join(ORDERS)}."))
    if order == "cost" and "cursor" in params:
        raise InvalidInput(FieldProblem("?cursor", "one_page", "What is ranked by cost has one page alone."))
    return order == "cost"


class RuleFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Rules by what they are about."""

    type = filters.ChoiceFilter(choices=RuleType)
    severity = filters.ChoiceFilter(choices=Severity)
    enabled = YesNoFilter()
    cluster_id = IdFilter()
    tenant_id = IdFilter()

    class Meta:
        model = AlertRule
        fields: list[str] = []


class EventFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Incidents by state, rule and subject."""

    status = filters.ChoiceFilter(
        choices=[choice for choice in EventStatus.choices if choice[0] != EventStatus.PENDING]
    )
    rule_id = IdFilter()
    subject = filters.CharFilter()
    tenant_id = IdFilter()
    acknowledged = YesNoFilter(method="filter_acknowledged")

    class Meta:
        model = AlertEvent
        fields: list[str] = []

    def filter_acknowledged(self, events: QuerySet[AlertEvent], name: str, value: bool) -> QuerySet[AlertEvent]:
        """Whether somebody has seen it."""
        return events.filter(acknowledged_at__isnull=not value)


class ChannelFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Channels by how they speak."""

    kind = filters.ChoiceFilter(choices=ChannelKind)
    enabled = YesNoFilter()

    class Meta:
        model = Channel
        fields: list[str] = []


class WindowFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Planned work by where it is."""

    cluster_id = IdFilter()
    node_id = IdFilter()

    class Meta:
        model = MaintenanceWindow
        fields: list[str] = []
