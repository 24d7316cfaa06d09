"""What stands above the fields on the pages of jobs, nodes, tenants and incidents; each module adds its panels."""

from dashboard.pages import incidents, jobs, nodes, tenants

__all__ = ["incidents", "jobs", "nodes", "tenants"]
