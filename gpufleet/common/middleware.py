"""What happens to every request, outside any view."""

import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.http import HttpRequest, HttpResponse

from gpufleet.common.senders import actor_of

Handler = Callable[[HttpRequest], HttpResponse]

logger = structlog.stdlib.get_logger(__name__)

REQUEST_ID = "X-Request-Id"
HARMLESS_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")
DEMO = "X-Gpufleet-Demo"
PROBES = ("/healthz", "/readyz")


def is_api_path(path: str) -> bool:
    """Whether the path belongs to the API, where every answer is JSON."""
    return path == "/api" or path.startswith("/api/")


class RequestIdMiddleware:
    """Every answer carries ``X-Request-Id``, and so does every log line that the request caused."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Take the client's id where it is a harmless one, else make one."""
        offered = request.headers.get(REQUEST_ID, "")
        request_id = offered if HARMLESS_ID.fullmatch(offered) else uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self.get_response(request)
        response.headers[REQUEST_ID] = request_id
        return response


class AccessLogMiddleware:
    """One line a request. Never the query or a header: they may hold what a log should not."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Log the answer; probes, which come every few seconds, at the debug level."""
        started = time.perf_counter()
        response = self.get_response(request)
        log = logger.debug if request.path in PROBES else logger.info
        log(
            "request",
            method=request.method,
            path=request.path,
            status=response.status_code,
            ms=round(1000 * (time.perf_counter() - started), 1),
            actor=_who(request),
        )
        return response


def _who(request: HttpRequest) -> str:
    """The sender of an API request, or the person behind a page of the console."""
    user = None if is_api_path(request.path) else getattr(request, "user", None)
    # Beside the API there are paths that take its keys: their user is a caller, and no person.
    return f"user:{user.get_username()}" if isinstance(user, AbstractBaseUser) else actor_of(request)


class TrailingSlashMiddleware:
    """Serves ``/api/clusters/`` as ``/api/clusters``, without a redirect, which would lose a POST's body."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Take one slash off the end of an API path; from here on the two forms are one."""
        if is_api_path(request.path_info) and request.path_info.endswith("/") and request.path_info != "/api/":
            request.path_info = request.path_info[:-1]
            request.path = request.path[:-1]
        return self.get_response(request)


class ContentSecurityPolicyMiddleware:
    """The pages of the console run and load what this server serves, and nothing that stands in a page itself.

    Django 6 brings the like of it, with ``SECURE_CSP``; the API's pages are JSON, but for its documentation.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Put the policy on every answer below ``/admin/``, redirects and errors too."""
        response = self.get_response(request)
        if request.path_info.startswith("/admin"):
            response.headers["Content-Security-Policy"] = settings.CONSOLE_CSP
        return response


class DemoVisitorMiddleware:
    """In demo mode every answer of the API to a request without credentials says that it is read-only."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Mark the answer, whatever it is: refusals and unknown paths too."""
        response = self.get_response(request)
        if settings.GPUFLEET_DEMO and is_api_path(request.path) and "Authorization" not in request.headers:
            response.headers[DEMO] = "read-only"
        return response
