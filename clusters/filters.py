"""Filters of the lists, by a field's own name and exact value."""

from django_filters import rest_framework as filters

from clusters.models import GPU, Cluster, ClusterStatus, GPUHealth, GPUState, Node, NodeStatus
from gpufleet.common.query import IdFilter


class ClusterFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Of the list of clusters."""

    name = filters.CharFilter()
    region = filters.CharFilter()
    status = filters.ChoiceFilter(choices=ClusterStatus.choices)

    class Meta:
        model = Cluster
        fields = ["name", "region", "status"]


class NodeFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Of the list of nodes."""

    cluster_id = IdFilter()
    hostname = filters.CharFilter()
    status = filters.ChoiceFilter(choices=NodeStatus.choices)

    class Meta:
        model = Node
        fields = ["cluster_id", "hostname", "status"]


class GpuFilter(filters.FilterSet):  # type: ignore[misc]  # django-filter has no types
    """Of the list of GPUs."""

    cluster_id = IdFilter(field_name="node__cluster_id")
    node_id = IdFilter()
    model = filters.CharFilter()
    uuid = filters.CharFilter()
    state = filters.ChoiceFilter(choices=GPUState.choices)
    health = filters.ChoiceFilter(choices=GPUHealth.choices)

    class Meta:
        model = GPU
        fields = ["cluster_id", "node_id", "model", "uuid", "state", "health"]
