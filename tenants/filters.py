"""Filters of the list of tenants."""

from django_filters import rest_framework as filters

from tenants.models import PlanTier, Tenant, TenantStatus


class TenantFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """By a field's own name and exact value."""

    name = filters.CharFilter()
    plan_tier = filters.ChoiceFilter(choices=PlanTier.choices)
    status = filters.ChoiceFilter(choices=TenantStatus.choices)

    class Meta:
        model = Tenant
        fields = ["name", "plan_tier", "status"]
