"""The base of every view of the API, the router, and the answers for paths that no view serves."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views import defaults
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import GenericViewSet

from gpufleet.common.errors import Internal, LengthRequired, NotFound, Unreadable
from gpufleet.common.middleware import is_api_path
from gpufleet.common.problems import problem_response
from gpufleet.common.query import StrictParametersMixin
from gpufleet.common.throttling import RateLimitMixin


class ApiViewSet(RateLimitMixin, StrictParametersMixin, GenericViewSet[Any]):
    """A viewset of the contract: strict parameters, integer ids, and an ``access`` rule for each action."""

    lookup_value_regex = "[0-9]{1,18}"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """As in every view; and a body must say how long it is."""
        super().initial(request, *args, **kwargs)
        if "Transfer-Encoding" in request.headers and "Content-Length" not in request.headers:
            raise LengthRequired("Send the body with a Content-Length; chunked bodies are not taken.")

    def options(self, request: Any, *args: Any, **kwargs: Any) -> Response:
        """204 with ``Allow``, to whomever the API knows."""
        return Response(status=204)


class ApiRouter(SimpleRouter):
    """Routes without a trailing slash; ``TrailingSlashMiddleware`` makes the other form work too."""

    def __init__(self) -> None:
        super().__init__(trailing_slash=False)


def handle_bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400 outside a view: a host that is not ours, or a request that Django could not read."""
    if is_api_path(request.path):
        return problem_response(request, Unreadable("The request could not be read."))
    return defaults.bad_request(request, exception)


def handle_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 for a path that no route serves."""
    if is_api_path(request.path):
        return problem_response(request, NotFound())
    return defaults.page_not_found(request, exception)


def handle_server_error(request: HttpRequest) -> HttpResponse:
    """500 outside a view's own handling: still no traceback and no HTML in the API."""
    if is_api_path(request.path):
        return problem_response(request, Internal())
    return defaults.server_error(request)
