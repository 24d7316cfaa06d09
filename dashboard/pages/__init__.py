"""What stands above the fields on the pages of jobs, nodes, tenants and others; each module adds its panels."""

from dashboard.pages import gpus, incidents, invoices, jobs, nodes, tenants

__all__ = ["gpus", "incidents", "invoices", "jobs", "nodes", "tenants"]
