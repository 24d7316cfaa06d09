"""The route of what-if questions."""

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet.common.api import ApiViewSet
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.serializers import checked_body
from jobs import whatif
from jobs.whatif_serializers import AnswerSerializer, QuestionSerializer, question, shown_answer
from tenants.permissions import READ, caller_of


class SimulationViewSet(ApiViewSet):
    """What if. A tenant-bound key asks about its own jobs and quota alone."""

    access = {"create": READ}

    @extend_schema(request=QuestionSerializer, responses={200: AnswerSerializer}, operation_id="jobs_simulate")
    def create(self, request: Request) -> Response:
        """The scheduler's own plan, run forward over a copy of the live queue: when would this job start, and what if
        a quota, the fleet or a price were different. It changes nothing."""
        values = checked_body(QuestionSerializer, request)
        caller, now = caller_of(request), timezone.now()
        wanted = values.get("job", {}).get("tenant_id")
        if caller.tenant_id is not None and wanted not in (None, caller.tenant_id):
            raise InvalidInput(FieldProblem("#/job/tenant_id", "does_not_exist", f"There is no tenant {wanted}."))
        asked = question(values, tenant_id=caller.tenant_id or wanted, now=now)
        return Response(shown_answer(whatif.ask(asked, of_tenant=caller.tenant_id, now=now)))
