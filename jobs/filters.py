"""Filters of the list of jobs, by the fields' own names."""

from django_filters import rest_framework as filters

from gpufleet.common.query import IdFilter
from jobs.models import Job, JobStatus


class JobFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Jobs by where they run, whose they are, and how they stand."""

    status = filters.ChoiceFilter(choices=JobStatus.choices)
    cluster_id = IdFilter()
    tenant_id = IdFilter()
    priority = filters.ChoiceFilter(choices=[(number, str(number)) for number in range(1, 11)])
    name = filters.CharFilter()
    submitted_by = filters.CharFilter()

    class Meta:
        model = Job
        fields = ["status", "cluster_id", "tenant_id", "priority", "name", "submitted_by"]
