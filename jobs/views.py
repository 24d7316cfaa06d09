"""The routes of jobs: each calls one service or query and translates."""

from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.utils import timezone
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet.common.api import ApiViewSet
from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.idempotency import idempotent
from gpufleet.common.serializers import checked_body
from gpufleet.common.snapshots import snapshot
from jobs import assignments, queries, scheduler, services
from jobs.assignment_serializers import RunSerializer
from jobs.filters import JobFilter
from jobs.models import Job
from jobs.serializers import (
    ExplanationSerializer,
    JobChangesSerializer,
    JobDetailSerializer,
    JobEventSerializer,
    JobInputSerializer,
    JobSerializer,
    StatusInputSerializer,
    checked_jobs,
    show,
    show_in_detail,
    show_new,
    show_new_in_detail,
)
from tenants.callers import Caller
from tenants.permissions import READ, WRITE, caller_of


class JobViewSet(ApiViewSet):
    """Jobs. A tenant-bound key sees and submits its own tenant's alone."""

    queryset = Job.objects.none()
    serializer_class = JobSerializer
    filterset_class = JobFilter
    access = {
        "list": READ,
        "retrieve": READ,
        "create": WRITE,
        "partial_update": WRITE,
        "change_status": WRITE,
        "events": READ,
        "explain": READ,
        "runs": READ,
    }
    action_parameters = {"events": ("limit", "cursor"), "runs": ("limit", "cursor")}

    def list(self, request: Request) -> Response:
        """Jobs, newest first."""
        rows = self.filter_queryset(queries.list_jobs(of_tenant=caller_of(request).tenant_id))
        with snapshot():  # A job that starts meanwhile is shown as waiting or with its GPUs, never as both.
            return self.get_paginated_response(show(*(self.paginate_queryset(rows) or [])))

    @extend_schema(responses=JobDetailSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        """One job, with its quote."""
        with snapshot():
            return Response(show_in_detail(queries.get_job(int(pk), of_tenant=caller_of(request).tenant_id)))

    @extend_schema(
        request=PolymorphicProxySerializer(
            "JobOrJobs",
            [JobInputSerializer, JobInputSerializer(many=True)],
            resource_type_field_name=None,
            many=False,
        ),
        responses={
            201: PolymorphicProxySerializer(
                "SubmittedJobOrJobs",
                [JobDetailSerializer, JobSerializer(many=True)],
                resource_type_field_name=None,
                many=False,
            )
        },
    )
    @idempotent()
    def create(self, request: Request) -> Response:
        """Submit a job, or an array of up to 1,000, all or none. One that could never start is a 409; one that can't
        start now waits, with its reason. The answer to an array is an array, in its order."""
        if isinstance(request.data, list):
            return self._create_many(request)
        values = checked_body(JobInputSerializer, request)
        caller = caller_of(request)
        values["tenant_id"] = _tenant_of(values, caller)
        job = services.submit_job(**values, actor=caller.actor, now=timezone.now())
        return Response(show_new_in_detail(job), status=201)

    def _create_many(self, request: Request) -> Response:
        caller = caller_of(request)
        wishes = checked_jobs(request)
        for index, values in enumerate(wishes):
            values["tenant_id"] = _tenant_of(values, caller, f"#/{index}/tenant_id")
        jobs = services.submit_jobs(wishes=wishes, actor=caller.actor, now=timezone.now())
        return Response(show_new(*jobs), status=201)

    @extend_schema(request=JobChangesSerializer, responses=JobSerializer)
    @transaction.atomic  # What is shown is read before anybody else may move the job on.
    def partial_update(self, request: Request, pk: str) -> Response:
        """Change the priority of a job that waits."""
        values = checked_body(JobChangesSerializer, request)
        caller = caller_of(request)
        job = services.change_priority(
            job_id=int(pk), **values, actor=caller.actor, tenant_id=caller.tenant_id, now=timezone.now()
        )
        return Response(show(job)[0])

    @extend_schema(request=StatusInputSerializer, responses=JobSerializer)
    @action(detail=True, methods=["patch"], url_path="status")
    @transaction.atomic
    def change_status(self, request: Request, pk: str) -> Response:
        """Hold, release, requeue, cancel or end a job. An illegal move is a 409 that names the legal ones."""
        values = checked_body(StatusInputSerializer, request)
        caller = caller_of(request)
        job = services.change_status(
            job_id=int(pk),
            status=values["status"],
            reason=values.get("block_reason", ""),
            actor=caller.actor,
            tenant_id=caller.tenant_id,
            now=timezone.now(),
        )
        return Response(show(job)[0])

    @extend_schema(responses=JobEventSerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def events(self, request: Request, pk: str) -> Response:
        """Every change of the job's state, newest first."""
        page = self.paginate_queryset(queries.list_events(int(pk), of_tenant=caller_of(request).tenant_id)) or []
        return self.get_paginated_response(JobEventSerializer(page, many=True).data)

    @extend_schema(responses=RunSerializer(many=True))
    @action(detail=True, methods=["get"], filterset_class=None)
    def runs(self, request: Request, pk: str) -> Response:
        """What the nodes' agents reported of the job, newest first, with the last lines of its logs."""
        job = queries.get_job(int(pk), of_tenant=caller_of(request).tenant_id)
        page = self.paginate_queryset(assignments.list_runs(job)) or []
        return self.get_paginated_response(RunSerializer(page, many=True).data)

    @extend_schema(responses=ExplanationSerializer)
    @action(detail=True, methods=["get"], filterset_class=None)
    def explain(self, request: Request, pk: str) -> Response:
        """Why the job waits: all blockers, its place, when it starts, and what would start it now; or why it went
        where it went."""
        tenant_id = caller_of(request).tenant_id
        explanation = scheduler.explain_job(job_id=int(pk), of_tenant=tenant_id, now=timezone.now())
        return Response(ExplanationSerializer(explanation).data)


def _tenant_of(values: Mapping[str, Any], caller: Caller, pointer: str = "#/tenant_id") -> int | None:
    """A tenant's key submits for its own tenant; another's is told as one that is not there."""
    wanted: int | None = values.get("tenant_id")
    if caller.tenant_id is None or wanted == caller.tenant_id:
        return wanted
    if wanted is None:
        return caller.tenant_id
    raise InvalidInput(FieldProblem(pointer, "does_not_exist", f"There is no tenant {wanted}."))
