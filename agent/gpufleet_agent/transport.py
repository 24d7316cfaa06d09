"""HTTP with a key, by the standard library: JSON in, JSON out, and every failure one of three kinds."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

from gpufleet_agent import __version__

TIMEOUT_S = 10.0
LARGEST_ANSWER = 64 * 2**20
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
# A server that asks for more patience than this is asked again all the same.
LONGEST_PATIENCE_S = 600.0


class Unreachable(Exception):
    """The server does not answer, or not in a way that we can read."""


class Busy(Exception):
    """429 or 5xx: the same again later may work. ``retry_after``: seconds, where the server said how long."""

    def __init__(self, status: int, retry_after: float | None) -> None:
        super().__init__(f"the server answers {status}")
        self.status = status
        self.retry_after = retry_after


class Refused(Exception):
    """The API understood, and said no: the same again is no use. ``problem`` is its problem document."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status}: {problem.get('detail') or problem.get('title') or 'refused'}")
        self.status = status
        self.problem = problem


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A key is for the server that it was given for."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Never; the redirect is then an error as any other."""


class Answer:
    """A body, and the path of the next page where there is one."""

    def __init__(self, body: Any, link: str) -> None:
        self.body = body
        self.next = _next_of(link)


class Transport:
    """Requests to one server under one key."""

    def __init__(self, server: str, key: str, *, ca_file: str | None = None) -> None:
        if not server.startswith(("http://", "https://")):
            raise ValueError(f"{server!r} is no address; it begins with https:// or http://.")
        self.server = server.rstrip("/")
        self._key = key
        context = ssl.create_default_context(cafile=ca_file)
        self._opener = urllib.request.build_opener(_NoRedirects, urllib.request.HTTPSHandler(context=context))

    def call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        idempotency_key: str = "",
        timeout: float = TIMEOUT_S,
    ) -> Answer:
        """One request. ``body`` is JSON, or bytes that are. Raises ``Unreachable``, ``Busy`` and ``Refused``."""
        request = self._request(method, path, params, body, idempotency_key)
        try:
            with self._opener.open(request, timeout=timeout) as response:
                text = response.read(LARGEST_ANSWER)
                return Answer(json.loads(text) if text else None, response.headers.get("Link", ""))
        except urllib.error.HTTPError as error:
            raise _failure(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unreachable(f"{self.server} does not answer: {getattr(error, 'reason', error)}") from error

    def _request(
        self, method: str, path: str, params: dict[str, Any] | None, body: Any, idempotency_key: str
    ) -> urllib.request.Request:
        query = urlencode({name: value for name, value in (params or {}).items() if value is not None})
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self._key}", "User-Agent": f"gpufleet-agent/{__version__}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        url = self.server + path + (f"?{query}" if query else "")
        return urllib.request.Request(url, data=data, headers=headers, method=method)  # noqa: S310  (checked above)


def _failure(error: urllib.error.HTTPError) -> Exception:
    with error:
        if error.code == TOO_MANY_REQUESTS or error.code >= SERVER_ERRORS:
            asked = error.headers.get("Retry-After", "")
            return Busy(error.code, min(float(asked), LONGEST_PATIENCE_S) if asked.isdigit() else None)
        try:
            problem = json.loads(error.read(LARGEST_ANSWER))
        except (ValueError, OSError, http.client.HTTPException):
            problem = {}
    return Refused(error.code, problem if isinstance(problem, dict) else {})


def _next_of(link: str) -> str:
    """The address in ``<…>; rel="next"``, or nothing."""
    for part in link.split(","):
        address, _, relation = part.partition(";")
        if 'rel="next"' in relation:
            return address.strip().strip("<>")
    return ""
