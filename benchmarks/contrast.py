"""What ingestion would be with a plain serializer and the ORM: a Django application for the benchmark alone.

Its table has the same columns and index as samples have had, one row each; it checks as little as it can.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import models  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

from clusters.serializers import SampleInputSerializer  # noqa: E402

CREATE = """
CREATE TABLE IF NOT EXISTS contrast_reading (
    id bigserial PRIMARY KEY, gpu_id bigint NOT NULL, recorded_at timestamptz NOT NULL, utilization_pct float8,
    memory_used_mb integer, memory_total_mb integer, temperature_c float8, power_draw_w float8, xid integer);
CREATE INDEX IF NOT EXISTS contrast_by_gpu ON contrast_reading (gpu_id, recorded_at)
"""


class Reading(models.Model):
    """A row for each sample."""

    gpu_id = models.BigIntegerField()
    recorded_at = models.DateTimeField()
    utilization_pct = models.FloatField(null=True)
    memory_used_mb = models.IntegerField(null=True)
    memory_total_mb = models.IntegerField(null=True)
    temperature_c = models.FloatField(null=True)
    power_draw_w = models.FloatField(null=True)
    xid = models.IntegerField(null=True)

    class Meta:
        app_label = "clusters"
        managed = False
        db_table = "contrast_reading"

    def __str__(self) -> str:
        return f"reading of GPU {self.gpu_id}"


class BatchSerializer(serializers.Serializer[dict[str, object]]):
    """A list of samples."""

    metrics = SampleInputSerializer(many=True)


class MetricsView(APIView):
    """Check, then ``bulk_create``."""

    authentication_classes = ()
    permission_classes = ()

    def post(self, request: Request) -> Response:
        """Store a batch."""
        batch = BatchSerializer(data=request.data)
        batch.is_valid(raise_exception=True)
        rows = Reading._default_manager.bulk_create(Reading(**sample) for sample in batch.validated_data["metrics"])
        return Response({"accepted": len(rows)}, status=202)


urlpatterns = [path("api/clusters/metrics", MetricsView.as_view())]
settings.ROOT_URLCONF = __name__
application = get_wsgi_application()
