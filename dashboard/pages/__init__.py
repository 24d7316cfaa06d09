"""What stands above the fields on the pages of jobs, nodes, tenants and others; each module adds its panels."""

from dashboard.pages import incidents, invoices, jobs, nodes, tenants

__all__ = ["incidents", "invoices", "jobs", "nodes", "tenants"]
