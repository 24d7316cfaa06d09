"""The routes by which agents take jobs and say what became of them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from clusters.models import Node
from gpufleet.common.api import ApiViewSet
from gpufleet.common.idempotency import idempotent
from gpufleet.common.query import parse_bounded_int
from gpufleet.common.serializers import checked_body
from jobs import services
from jobs.assignment_serializers import AssignmentsSerializer, ReportInputSerializer, RunSerializer
from jobs.assignments import Assignments, get_assignments
from tenants.permissions import REPORT, caller_of

LONGEST_WAIT_S = 20
LOOK_EVERY_S = 0.5
# Questions that wait have a thread each, so that most threads are left to those that do not. Whoever comes when all
# places are taken is answered at once, and asks again after `poll_after_s`.
PLACES = threading.BoundedSemaphore(2)


class AssignmentViewSet(ApiViewSet):
    """What a node's agent is to run. For the cluster's own key, and keys that may write to the whole fleet."""

    queryset = Node.objects.none()
    serializer_class = AssignmentsSerializer
    access = {"assignments": REPORT, "reports": REPORT}
    action_parameters = {"assignments": ("version", "wait")}

    @extend_schema(
        responses=AssignmentsSerializer,
        parameters=[
            OpenApiParameter("version", str, description="Of the last answer: wait until it is another one."),
            OpenApiParameter(
                "wait",
                {"type": "integer", "minimum": 0, "maximum": LONGEST_WAIT_S},
                description="Seconds to wait for a change at most. Default: 0. The server may answer earlier.",
            ),
        ],
    )
    @action(detail=True, methods=["get"], pagination_class=None)
    def assignments(self, request: Request, pk: str) -> Response:
        """The jobs that hold GPUs of the node and bring a command or an image."""
        params = request.query_params
        wait = parse_bounded_int(params.get("wait"), name="wait", default=0, low=0, high=LONGEST_WAIT_S)
        found = _wait_for_change(int(pk), _cluster_key(request), known=params.get("version"), wait=wait)
        return Response(AssignmentsSerializer(found).data)

    @extend_schema(
        request=ReportInputSerializer,
        responses=RunSerializer,
        description="started, exited or refused. The end of the last run of a job ends the job: completed when every "
        "exit code is 0, failed when one is not. refused puts it back into the queue. The same report again changes "
        "nothing.",
    )
    @action(detail=True, methods=["post"], pagination_class=None)
    @idempotent()
    def reports(self, request: Request, pk: str) -> Response:
        """Say what became of a run on the node."""
        values = checked_body(ReportInputSerializer, request)
        actor = caller_of(request).actor
        run = services.report_run(
            node_id=int(pk), **values, actor=actor, now=timezone.now(), cluster_key_id=_cluster_key(request)
        )
        return Response(RunSerializer(run).data)


def _wait_for_change(node_id: int, key_id: int | None, *, known: str | None, wait: int) -> Assignments:
    deadline = time.monotonic() + wait
    with _place() as have_place:
        while True:
            found = get_assignments(node_id, cluster_key_id=key_id)
            if found.version != known or not have_place or time.monotonic() + LOOK_EVERY_S > deadline:
                return found
            if not connection.in_atomic_block:
                connection.close()  # Back to the pool: who waits needs none.
            time.sleep(LOOK_EVERY_S)


@contextmanager
def _place() -> Iterator[bool]:
    have_place = PLACES.acquire(blocking=False)
    try:
        yield have_place
    finally:
        if have_place:
            PLACES.release()


def _cluster_key(request: Request) -> int | None:
    """The id of a cluster's own key, which may speak of its cluster alone; None for other keys."""
    caller = caller_of(request)
    return caller.key_id if caller.is_cluster_key else None
