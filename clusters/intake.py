"""The door for metric batches, before Django's own: a batch as most are is stored with those of its moment.

Everything else, and every refusal, is Django's, which gets the request as it came.
"""

import io
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import close_old_connections, connections
from django.utils import timezone

from clusters.groups import GroupWriter
from clusters.telemetry import decode_quickly
from gpufleet.common.idempotency import fingerprint_of_bytes, is_acceptable
from gpufleet.common.packing import unpack
from gpufleet.common.threads import LateThreads

logger = structlog.stdlib.get_logger(__name__)

PATH: Final = "/api/clusters/metrics"
BEARER: Final = "Bearer "

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
# The headers and the body of a 202.
Answer = tuple[list[tuple[str, str]], bytes]


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch as it came, and when, and whom to tell its answer."""

    environ: dict[str, Any]
    body: bytes
    now: datetime
    then: Callable[[Answer | None], None]


class Intake:
    """A WSGI application round another one.

    One thread decodes all batches: many that did would spend a tenth of their time on handing the interpreter's lock to
    each other.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.writer = GroupWriter()
        self._sent: SimpleQueue[Sent | None] = SimpleQueue()
        self._threads = LateThreads({"metric-decoder": self._decode_for_ever})

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Store a plain batch and answer 202; hand on anything else."""
        told: SimpleQueue[Answer | None] = SimpleQueue()
        answer = told.get() if self.take(environ, told.put) else None
        if answer is None:
            return self.application(environ, start_response)
        headers, body = answer
        start_response("202 Accepted", headers)
        return [body]

    def take(self, environ: dict[str, Any], then: Callable[[Answer | None], None]) -> bool:
        """Take a batch, and tell ``then`` its answer when it is durable, on another thread; None where it is the other
        application's after all. False: it is the other's, and nothing is told. ``environ`` is left as it came.
        """
        if not _is_for_us(environ):
            return False
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        environ["wsgi.input"] = io.BytesIO(body)
        self._threads.start()
        self._sent.put(Sent(environ, body, timezone.now(), then))
        return True

    def close(self) -> None:
        """Write what is left, and end the threads. Nothing may come meanwhile or later."""
        self._sent.put(None)
        self._threads.join()
        self.writer.close()

    def _decode_for_ever(self) -> None:
        while (sent := self._sent.get()) is not None:
            try:
                if not self._hand_over(sent):
                    sent.then(None)
            except Exception:  # Who can't be told is gone; those behind him are not.
                logger.exception("a metric batch could not be handed on")
        connections.close_all()

    def _hand_over(self, sent: Sent) -> bool:
        """Let a plain batch be stored; False where it is the other application's."""
        try:
            return self._submit(sent)
        except Exception:
            logger.exception("a metric batch goes the ordinary way")
            close_old_connections()
            return False

    def _submit(self, sent: Sent) -> bool:
        environ, then = sent.environ, sent.then
        packing = environ.get("HTTP_CONTENT_ENCODING", "")
        try:
            raw = unpack(sent.body, packing, limit=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
        except ValueError:
            return False
        columns = decode_quickly(raw, now=sent.now)
        key = environ.get("HTTP_IDEMPOTENCY_KEY")
        if columns is None or (key is not None and not is_acceptable(key)):
            return False
        accepted = len(columns.gpu_ids)
        return self.writer.submit(
            columns,
            raw_key=environ["HTTP_AUTHORIZATION"].removeprefix(BEARER).strip(),
            idempotency=None if key is None else (key, fingerprint_of_bytes("POST", PATH, raw)),
            now=sent.now,
            then=lambda stored: then(_answer(accepted) if stored else None),
        )


def _answer(accepted: int) -> Answer:
    body = b'{"accepted":%d}' % accepted
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("X-Request-Id", secrets.token_hex(16)),
        ("Allow", "POST, OPTIONS"),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("X-Frame-Options", "DENY"),
    ]
    return headers, body


def _is_for_us(environ: dict[str, Any]) -> bool:
    """A POST of JSON with a key and a length within the limit; nothing else that Django would want to see."""
    length = environ.get("CONTENT_LENGTH") or ""
    return (
        environ["REQUEST_METHOD"] == "POST"
        and environ.get("PATH_INFO") == PATH
        and not environ.get("QUERY_STRING")
        and environ.get("CONTENT_TYPE", "").lower() == "application/json"
        and environ.get("HTTP_AUTHORIZATION", "").startswith(BEARER)
        and length.isascii()
        and length.isdigit()
        and int(length) <= settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        and "HTTP_TRANSFER_ENCODING" not in environ
        and _is_secure(environ)
    )


def _is_secure(environ: dict[str, Any]) -> bool:
    """Whether Django would not send the client to HTTPS first."""
    if not settings.SECURE_SSL_REDIRECT:
        return True
    told_by_proxy: tuple[str, str] | None = getattr(settings, "SECURE_PROXY_SSL_HEADER", None)
    name, value = told_by_proxy or ("wsgi.url_scheme", "https")
    return bool(environ.get(name) == value)
