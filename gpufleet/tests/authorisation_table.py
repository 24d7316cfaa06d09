"""Who may do what: every route and method of the API, and every model of the console.

A row names the callers that may; ``hidden`` names those for whom the row's object is not there: they get a 404, or what
``hidden_as`` says, exactly as if it did not exist. Every other known caller is refused with a 403 and every unknown one
with a 401. The callers are:

    anonymous   no key; a 401 everywhere but on EVERYBODY's routes, and so are:
    revoked     a key that was an admin's until it was revoked
    expired     the same, until it expired
    operator    a person of the operator group, with a session of the console: the API takes keys alone
    finance     a person of the finance group, likewise
    demo        no key, in demo mode: a visitor who reads; for a method that changes something, a 401
    A, B        Alice's key and Bob's, read and write; the object is Alice's wherever it is a tenant's
    read, write keys of no tenant with that one scope
    admin       a key of no tenant that may do everything
    cluster     the agents' key of the cluster that the object is in
    other       the agents' key of another cluster

``of`` names the row's object in ``authorisation_world.py``: by default the path before ``{id}``. In a body ``"@jobs"``
is the id of that object. To add a route, add a row; the test says which ones are missing.
"""

from dataclasses import dataclass, field
from typing import Any

EVERYBODY = "anonymous revoked expired operator finance demo A B read write admin cluster other"
READERS = "demo A B read admin"
FLEET_READERS = "demo read admin"
AGENTS = "cluster write admin"


@dataclass(frozen=True)
class Row:
    """One route and method."""

    method: str
    route: str
    may: str
    hidden: str = ""
    hidden_as: int = 404
    of: str = ""
    query: str = ""
    body: Any = None
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.method} {self.route}")

    @property
    def object_name(self) -> str:
        """Which object of the world the row is about."""
        return self.of or self.route.removeprefix("/api/").split("/{id}")[0]


API = [
    # The project itself.
    Row("GET", "/healthz", EVERYBODY),
    Row("GET", "/readyz", EVERYBODY),
    Row("GET", "/metrics", FLEET_READERS),
    Row("GET", "/api/schema", EVERYBODY),
    Row("GET", "/api/docs", EVERYBODY),
    # Tenants.
    Row("GET", "/api/tenants", READERS),
    Row("POST", "/api/tenants", "admin", body={"name": "initech", "gpu_quota": 4}),
    Row("GET", "/api/tenants/{id}", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/tenants/{id}", "admin", body={"gpu_quota": 4}),
    Row("DELETE", "/api/tenants/{id}", "admin"),
    Row("GET", "/api/tenants/{id}/invoice-preview", "demo A read admin", hidden="B"),
    Row("GET", "/api/tenants/{id}/usage", "demo A read admin", hidden="B"),
    # API keys.
    Row("GET", "/api/keys", "admin"),
    Row("POST", "/api/keys", "admin", body={"label": "ci"}),
    Row("DELETE", "/api/keys/{id}", "admin"),
    # Clusters, nodes, GPUs and metrics.
    Row("GET", "/api/clusters", READERS),
    Row("POST", "/api/clusters", "admin", body={"name": "madrid"}),
    Row("GET", "/api/clusters/{id}", READERS),
    Row("PATCH", "/api/clusters/{id}", "admin", body={"region": "eu"}),
    Row("DELETE", "/api/clusters/{id}", "admin", of="empty cluster"),
    Row("GET", "/api/clusters/nodes", READERS),
    Row(
        "POST",
        "/api/clusters/nodes",
        AGENTS,
        hidden="other",
        of="clusters",
        body={"cluster_id": "@clusters", "hostname": "node-9"},
    ),
    Row("GET", "/api/clusters/nodes/{id}", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/clusters/nodes/{id}", "write admin", body={"status": "draining"}),
    Row("GET", "/api/clusters/gpus", READERS),
    Row(
        "POST",
        "/api/clusters/gpus",
        AGENTS,
        hidden="other",
        of="clusters/nodes",
        body={"node_id": "@clusters/nodes", "gpus": [{"model": "H100"}]},
    ),
    Row("GET", "/api/clusters/gpus/{id}", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/clusters/gpus/{id}", "write admin", body={"health": "healthy"}),
    Row("POST", "/api/clusters/gpus/{id}/retire", "admin", of="idle gpu", body={"reason": "sold"}),
    Row("GET", "/api/clusters/gpus/{id}/metrics", "demo A read admin", hidden="B"),
    Row(
        "POST",
        "/api/clusters/metrics",
        AGENTS,
        hidden="other",
        hidden_as=400,  # The batch is refused, and the place in it is named.
        of="clusters/gpus",
        body={"metrics": [{"gpu_id": "@clusters/gpus"}]},
    ),
    # What agents run.
    Row("GET", "/api/clusters/nodes/{id}/assignments", AGENTS, hidden="other", of="clusters/nodes"),
    Row(
        "POST",
        "/api/clusters/nodes/{id}/reports",
        AGENTS,
        hidden="other",
        of="clusters/nodes",
        body={"job_id": "@jobs", "run_id": "@run", "state": "started"},
    ),
    Row("GET", "/api/jobs/{id}/runs", "demo A read admin", hidden="B"),
    # Jobs.
    Row("GET", "/api/jobs", READERS),
    Row("POST", "/api/jobs", "A B write admin", body={"cluster_id": "@clusters", "name": "train"}),
    # A question with a body: a visitor who only reads by safe methods is not asked in.
    Row("POST", "/api/jobs/simulate", "A B read admin", body={"horizon_hours": 1}),
    Row("GET", "/api/jobs/{id}", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/jobs/{id}", "A write admin", hidden="B", of="waiting job", body={"priority": 3}),
    Row("GET", "/api/jobs/{id}/explain", "demo A read admin", hidden="B"),
    Row("GET", "/api/jobs/{id}/events", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/jobs/{id}/status", "A write admin", hidden="B", body={"status": "completed"}),
    # Billing.
    # No key opens it: Stripe's signature does.
    Row("POST", "/api/billing/stripe/webhook", "", "A B read write admin cluster other", 401, of="jobs", body={}),
    Row("GET", "/api/billing/rates", READERS),
    Row("POST", "/api/billing/rates", "admin", body={"gpu_model": "A100", "price_per_gpu_hour": "1.50"}),
    Row("GET", "/api/billing/invoices", READERS),
    Row("POST", "/api/billing/invoices", "admin", query="?days=3", body={"tenant_id": "@unbilled tenant"}),
    Row("GET", "/api/billing/invoices/{id}", "demo A read admin", hidden="B"),
    Row("GET", "/api/billing/invoices/{id}/lines", "demo A read admin", hidden="B"),
    Row("GET", "/api/billing/invoices/{id}/proof", "demo A read admin", hidden="B"),
    Row("GET", "/api/billing/invoices/{id}/pdf", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/billing/invoices/{id}/status", "admin", body={"status": "open"}),
    Row("GET", "/api/billing/summary", READERS),
    Row("GET", "/api/billing/credit-notes", READERS),
    Row("GET", "/api/billing/credit-notes/{id}", "demo A read admin", hidden="B"),
    Row("PATCH", "/api/billing/credit-notes/{id}/status", "admin", of="draft note", body={"status": "issued"}),
    Row("GET", "/api/billing/service-levels", READERS),
    Row(
        "POST",
        "/api/billing/service-levels",
        "admin",
        body={"name": "uptime", "states": ["offline"], "longer_than_seconds": 300, "credit_percent": 100},
    ),
    Row("PATCH", "/api/billing/service-levels/{id}", "admin", body={"enabled": False}),
    # Alerts: the rules are the operator's, an incident is its tenant's.
    Row("GET", "/api/alerts", FLEET_READERS),
    Row("POST", "/api/alerts", "admin", body={"name": "idle", "type": "utilization_low", "threshold": 5}),
    Row("GET", "/api/alerts/{id}", FLEET_READERS),
    Row("PATCH", "/api/alerts/{id}", "admin", body={"threshold": 7}),
    Row("DELETE", "/api/alerts/{id}", "admin", of="quiet alert"),
    Row("POST", "/api/alerts/{id}/silence", "write admin", body={"until": "@tomorrow", "reason": "maintenance"}),
    Row("DELETE", "/api/alerts/{id}/silence", "write admin"),
    Row("GET", "/api/alerts/events", READERS),
    Row("GET", "/api/alerts/channels", "admin"),
    Row("POST", "/api/alerts/channels", "admin", body={"name": "ops", "kind": "email", "target": "ops@example.com"}),
    Row("GET", "/api/alerts/channels/{id}", "admin"),
    Row("PATCH", "/api/alerts/channels/{id}", "admin", body={"enabled": False}),
    Row("DELETE", "/api/alerts/channels/{id}", "admin"),
    Row("GET", "/api/alerts/maintenance", FLEET_READERS),
    Row(
        "POST",
        "/api/alerts/maintenance",
        "write admin",
        body={"cluster_id": "@clusters", "starts_at": "@now", "ends_at": "@tomorrow", "reason": "new switches"},
    ),
    Row("DELETE", "/api/alerts/maintenance/{id}", "write admin"),
    Row("POST", "/api/alerts/events/{id}/acknowledge", "A write admin", hidden="B"),
    # Dashboards are of the whole fleet.
    Row("GET", "/api/dashboard/kpis", FLEET_READERS),
    Row("GET", "/api/dashboard/fleet", FLEET_READERS),
    Row("GET", "/api/dashboard/revenue", FLEET_READERS),
    Row("GET", "/api/dashboard/leakage", FLEET_READERS),
    Row("GET", "/api/dashboard/estimates", FLEET_READERS),
]


PEOPLE = "viewer operator finance administrator"
OPERATORS = "operator administrator"
FINANCE = "finance administrator"


@dataclass(frozen=True)
class ModelRow:
    """One model of the console: which groups of people may open its pages, and nobody else, keys included."""

    model: str
    view: str = PEOPLE
    add: str = ""
    change: str = ""
    delete: str = ""


CONSOLE = [
    ModelRow("common.IdempotentResponse"),
    ModelRow("common.AuditEntry"),
    ModelRow("common.BulkRun"),
    ModelRow("tenants.Tenant", add=OPERATORS, change=OPERATORS),
    ModelRow("apikeys.ApiKey", add="administrator"),
    ModelRow("clusters.Cluster", add="administrator", change="administrator"),
    ModelRow("clusters.Node"),
    ModelRow("clusters.GPU"),
    ModelRow("clusters.GPUFault"),
    ModelRow("clusters.GPUStatePeriod"),
    ModelRow("clusters.LatestReading"),
    ModelRow("clusters.NodeWatch"),
    ModelRow("jobs.Job"),
    ModelRow("jobs.Run"),
    ModelRow("jobs.Allocation"),
    ModelRow("jobs.WaitPeriod"),
    ModelRow("jobs.KindWait"),
    ModelRow("jobs.JobEvent"),
    ModelRow("jobs.SchedulerCycle"),
    ModelRow("billing.Rate", add=FINANCE),
    ModelRow("billing.Invoice", add=FINANCE),
    ModelRow("billing.InvoiceEvent"),
    ModelRow("billing.InvoiceLine"),
    ModelRow("billing.BilledRange"),
    ModelRow("billing.CreditNote", add=FINANCE),
    ModelRow("billing.CreditedRange"),
    ModelRow("billing.ServiceLevel", add=FINANCE),
    ModelRow("billing.StripeEvent"),
    ModelRow("billing.OutboxMessage"),
    ModelRow("billing.StripeCustomer"),
    ModelRow("billing.StripeDifference"),
    ModelRow("alerts.AlertRule", add=OPERATORS, change=OPERATORS),
    ModelRow("alerts.RuleEvaluation"),
    ModelRow("alerts.AlertEvent"),
    ModelRow("alerts.Channel"),
    ModelRow("alerts.MaintenanceWindow", add=OPERATORS),
    ModelRow("alerts.Delivery"),
    ModelRow("auth.User", view="administrator", add="administrator", change="administrator", delete="administrator"),
    ModelRow("auth.Group", view="administrator", add="administrator", change="administrator", delete="administrator"),
]

# The console's other pages: for whoever has a session of a person's, but for the two that make one and end one.
CONSOLE_PAGES = {
    "index",
    "live",
    "live_period",
    "live_cluster",
    "live_explanation",
    "live_metrics",
    "live_leakage",
    "leakage",
    "leakage_rows",
    "live_leakage_rows",
    "search",
    "app_list",
    "autocomplete",
    "jsi18n",
    "view_on_site",
    "password_change",
    "password_change_done",
    "auth_user_password_change",
    "billing_invoice_move",
    "common_bulkrun_go",
    "common_bulkrun_stop",
    "billing_invoice_pdf",
    "billing_invoice_proof",
    "billing_invoice_proof_csv",
    "billing_invoice_proof_json",
}
# Where people log in, by name or through a provider.
CONSOLE_DOORS = {"login", "logout", "sso", "sso_callback"}
