"""All routes. Each app brings its own; the order matters only where an app extends another's prefix."""

from django.contrib import admin
from django.urls import include, path

from gpufleet import probes
from gpufleet.common.docs import DocsView, SchemaView
from gpufleet.metrics import MetricsViewSet

handler400 = "gpufleet.common.api.handle_bad_request"
handler404 = "gpufleet.common.api.handle_not_found"
handler500 = "gpufleet.common.api.handle_server_error"

urlpatterns = [
    path("healthz", probes.healthz, name="healthz"),
    path("readyz", probes.readyz, name="readyz"),
    path("metrics", MetricsViewSet.as_view({"get": "list"}), name="metrics"),
    path("admin/", admin.site.urls),
    path("api/schema", SchemaView.as_view(), name="schema"),
    path("api/docs", DocsView.as_view(url_name="schema"), name="docs"),
    path("api/", include("tenants.urls")),
    path("api/", include("apikeys.urls")),
    path("api/", include("clusters.urls")),
    path("api/", include("jobs.urls")),
    path("api/", include("billing.urls")),
    path("api/", include("alerts.urls")),
    path("api/", include("dashboard.urls")),
]
