"""The base of every viewset, the router, and the answers for paths that no view serves."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views import defaults
from rest_framework.routers import SimpleRouter
from rest_framework.viewsets import GenericViewSet

from gpufleet.common.problems import problem_response
from gpufleet.common.query import StrictParametersMixin

PREFIX = "/api/"


class ApiViewSet(StrictParametersMixin, GenericViewSet[Any]):
    """A viewset of the contract: strict parameters, integer ids, and an ``access`` rule for each action."""

    lookup_value_regex = "[0-9]{1,18}"


class ApiRouter(SimpleRouter):
    """Routes without a trailing slash; ``TrailingSlashMiddleware`` makes the other form work too."""

    def __init__(self) -> None:
        super().__init__(trailing_slash=False)


class TrailingSlashMiddleware:
    """Serves ``/api/clusters/`` as ``/api/clusters``, without a redirect, which would lose a POST's body."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Take one slash off the end of an API path."""
        if request.path_info.startswith(PREFIX) and request.path_info != PREFIX and request.path_info.endswith("/"):
            request.path_info = request.path_info[:-1]
        return self.get_response(request)


def handle_bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400 outside a view: a host that is not ours, or a request that Django could not read."""
    if request.path.startswith(PREFIX):
        return problem_response(request, 400, "bad_request", "The request could not be read.")
    return defaults.bad_request(request, exception)


def handle_not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404 for a path that no route serves."""
    if request.path.startswith(PREFIX):
        return problem_response(request, 404, "not_found", "There is no such resource.")
    return defaults.page_not_found(request, exception)


def handle_server_error(request: HttpRequest) -> HttpResponse:
    """500 outside a view's own handling: still no traceback and no HTML in the API."""
    if request.path.startswith(PREFIX):
        detail = "Something broke on our side; it is logged under the request id."
        return problem_response(request, 500, "internal_error", detail)
    return defaults.server_error(request)
