"""An HTTP client that outlives the server: it waits and tries again until it is answered or told to stop."""

import random
import threading
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import structlog

logger = structlog.stdlib.get_logger(__name__)

TIMEOUT_S = 10.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500


class Stopped(Exception):
    """We were told to stop while we waited."""


class Refused(Exception):
    """The API understood, and said no: trying the same again is no use."""

    def __init__(self, status: int, detail: str, pointers: Sequence[str] = ()) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.pointers = status, pointers


class Api:
    """The public API at ``server``. ``stop`` ends every wait."""

    def __init__(self, server: str, *, stop: threading.Event, rng: random.Random | None = None) -> None:
        self._http = httpx.Client(base_url=server, timeout=TIMEOUT_S, trust_env=False)
        self._stop = stop
        self._rng = rng or random.Random()  # noqa: S311  (jitter, not a secret)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def get_all(self, path: str, *, key: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Every row of a list, following ``Link: rel="next"``. Raises ``Refused`` and ``Stopped``."""
        response = self._answer("GET", path, key=key, params=dict(params or {}))
        rows: list[dict[str, Any]] = response.json()
        while "next" in response.links:
            response = self._answer("GET", response.links["next"]["url"], key=key)
            rows += response.json()
        return rows

    def send(self, method: str, path: str, body: Mapping[str, Any], *, key: str) -> Any:
        """POST or PATCH a body and give the answer's. Raises ``Refused`` and ``Stopped``.

        A POST carries an ``Idempotency-Key``, so that one whose answer was lost is not done twice.
        """
        headers = {"Idempotency-Key": uuid.uuid4().hex} if method == "POST" else {}
        return self._answer(method, path, key=key, json=body, headers=headers).json()

    def _answer(
        self, method: str, path: str, *, key: str, headers: Mapping[str, str] | None = None, **rest: Any
    ) -> httpx.Response:
        headers = {**(headers or {}), "Authorization": f"Bearer {key}"}
        attempt = 0
        while True:
            if self._stop.is_set():
                raise Stopped
            try:
                response = self._http.request(method, path, headers=headers, **rest)
            except httpx.RequestError as error:
                logger.warning("the server does not answer", path=path, error=type(error).__name__)
                self._wait(self._backoff(attempt))
            else:
                if response.is_success:
                    return response
                self._wait(self._patience(response, attempt))
            attempt += 1

    def _patience(self, response: httpx.Response, attempt: int) -> float:
        """How long to wait before the next attempt. Raises ``Refused`` where there should be none."""
        if response.status_code == TOO_MANY_REQUESTS:
            asked = response.headers.get("Retry-After", "")
            return (float(asked) if asked.isdigit() else LONGEST_WAIT_S) + self._rng.uniform(0, 1)
        if response.status_code >= SERVER_ERRORS:
            logger.warning("the server has trouble", status=response.status_code, path=response.request.url.path)
            return self._backoff(attempt)
        raise _refusal_of(response)

    def _backoff(self, attempt: int) -> float:
        """Seconds: twice as long each time, up to a limit, and never the same for two clients."""
        longest = min(FIRST_WAIT_S * 2 ** min(attempt, 10), LONGEST_WAIT_S)
        return self._rng.uniform(longest / 2, longest)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Stopped


def _refusal_of(response: httpx.Response) -> Refused:
    try:
        problem = response.json()
        detail, pointers = str(problem["detail"]), [error["pointer"] for error in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        detail, pointers = response.reason_phrase, []
    return Refused(response.status_code, detail, pointers)
