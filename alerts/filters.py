"""Filters of the lists, by the fields' own names."""

import django_filters
from django.db.models import QuerySet

from alerts.models import AlertEvent, AlertRule, EventStatus, RuleType, Severity


class RuleFilter(django_filters.FilterSet):
    """Rules by what they are about."""

    type = django_filters.ChoiceFilter(choices=RuleType)
    severity = django_filters.ChoiceFilter(choices=Severity)
    enabled = django_filters.BooleanFilter()
    cluster_id = django_filters.NumberFilter()
    tenant_id = django_filters.NumberFilter()

    class Meta:
        model = AlertRule
        fields: list[str] = []


class EventFilter(django_filters.FilterSet):
    """Incidents by state, rule and subject."""

    status = django_filters.ChoiceFilter(
        choices=[choice for choice in EventStatus.choices if choice[0] != EventStatus.PENDING]
    )
    rule_id = django_filters.NumberFilter()
    subject = django_filters.CharFilter()
    tenant_id = django_filters.NumberFilter()
    acknowledged = django_filters.BooleanFilter(method="filter_acknowledged")

    class Meta:
        model = AlertEvent
        fields: list[str] = []

    def filter_acknowledged(self, events: QuerySet[AlertEvent], name: str, value: bool) -> QuerySet[AlertEvent]:
        """Whether somebody has seen it."""
        return events.filter(acknowledged_at__isnull=not value)
