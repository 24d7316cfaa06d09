"""Filters of the list of keys."""

from django_filters import rest_framework as filters

from apikeys.models import ApiKey, KeyKind
from gpufleet.common.query import IdFilter


class KeyFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """By a field's own name and exact value."""

    label = filters.CharFilter()
    kind = filters.ChoiceFilter(choices=KeyKind.choices)
    tenant_id = IdFilter()

    class Meta:
        model = ApiKey
        fields = ["label", "kind", "tenant_id"]
