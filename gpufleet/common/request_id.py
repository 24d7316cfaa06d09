"""Every answer carries ``X-Request-Id``, and so does every log line that the request caused."""

import re
import uuid
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse

HEADER = "X-Request-Id"
ACCEPTABLE = re.compile(r"[A-Za-z0-9._-]{8,128}")


class RequestIdMiddleware:
    """Takes the client's request id where it is a harmless one, else makes one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Bind the id for the time of the request, and send it back."""
        offered = request.headers.get(HEADER, "")
        request_id = offered if ACCEPTABLE.fullmatch(offered) else uuid.uuid4().hex
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = self.get_response(request)
        response.headers[HEADER] = request_id
        return response
