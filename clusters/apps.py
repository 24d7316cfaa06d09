from django.apps import AppConfig


class ClustersConfig(AppConfig):
    """The hardware: clusters, nodes, GPUs, the ledger of their states, and what they report."""

    name = "clusters"
