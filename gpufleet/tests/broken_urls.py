"""Routes that fail in every way a view can, beside the real ones."""

from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.urls import path
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet import urls
from gpufleet.common.errors import Conflict, TooLarge, Unprocessable

handler400, handler404, handler500 = urls.handler400, urls.handler404, urls.handler500

FAILURES: dict[str, Callable[[], Exception]] = {
    "bug": lambda: ZeroDivisionError("SELECT secret FROM vault"),
    "missing": Http404,
    "denied": PermissionDenied,
    "suspicious": lambda: SuspiciousOperation("odd"),
    "gone-client": lambda: UnreadablePostError("hung up"),
    "no-database": lambda: OperationalError("connection to server at 10.0.0.7 failed"),
    "lost-connection": lambda: InterfaceError("connection already closed"),
    "conflict": lambda: Conflict("It runs.", status="running", legal=["completed"]),
    "too-large": lambda: TooLarge("Too many.", maximum=5000),
    "unprocessable": lambda: Unprocessable("Contradiction."),
}


@api_view(["GET"])
@authentication_classes([])
@permission_classes([])
def fail(request: Request, how: str) -> Response:
    """Fail inside a view of the API."""
    raise FAILURES[how]()


def fail_outside(request: HttpRequest, **_: Any) -> HttpResponse:
    """Fail where no handler of the framework's stands."""
    raise FAILURES["bug"]()


urlpatterns = [
    path("api/fail/<str:how>", fail),
    path("api/fail-outside", fail_outside),
    path("fail-outside", fail_outside),
    *urls.urlpatterns,
]
