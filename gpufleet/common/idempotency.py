"""``Idempotency-Key`` on POSTs that create: the first answer is stored in its effect's transaction, and replayed."""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

import msgspec
from django.db import transaction
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from gpufleet.common.errors import FieldProblem, InvalidInput, Unprocessable
from gpufleet.common.locks import lock_name, lock_names_statement
from gpufleet.common.models import IdempotentResponse
from gpufleet.common.senders import actor_of
from gpufleet.common.wire import Wire

KEEP = timedelta(hours=24)
HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
ACCEPTABLE = re.compile(r"[\x21-\x7e]{1,255}")

Handler = TypeVar("Handler", bound=Callable[..., Response])


class IdempotencyKeyReused(Unprocessable):
    """The key came before with another request."""

    code = "idempotency_key_reused"


def idempotent(*, secret_fields: Collection[str] = ()) -> Callable[[Handler], Handler]:
    """Make a POST handler of a view repeatable under an ``Idempotency-Key``.

    ``secret_fields`` are members of the answer that are shown once and never stored: in a replay they are null.
    A handler that raises leaves nothing behind, so that the client may try again under the same key.
    """

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def wrapper(view: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
            key = request.headers.get(HEADER)
            if key is None:
                return handler(view, request, *args, **kwargs)
            _check(key)
            fingerprint = fingerprint_of(request)  # Reads the body, however slow the client, before any lock.
            actor = actor_of(request)
            with transaction.atomic():
                lock_name(f"idempotency:{actor}:{key}")
                replay = _replay(actor, key, fingerprint, now=timezone.now())
                if replay is not None:
                    return replay
                response = handler(view, request, *args, **kwargs)
                _remember(actor, key, fingerprint, response, secret_fields, now=timezone.now())
                return response

        wrapper.is_idempotent = True  # type: ignore[attr-defined]  # read by the OpenAPI schema
        return cast(Handler, wrapper)

    return decorate


def fingerprint_of(request: Request) -> str:
    """SHA-256 of what the request asks for: method, path, query and decoded body, whatever its spacing."""
    asked = [request.method, request.path, request.META.get("QUERY_STRING", ""), request.data]
    unpacked: bytes | None = getattr(request, "unpacked_body", None)
    if unpacked is not None:  # Left by ``PackedJSONParser``: of a batch of thousands the bytes are enough.
        return fingerprint_of_bytes(str(request.method), request.path, unpacked)
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def fingerprint_of_bytes(method: str, path: str, body: bytes) -> str:
    """SHA-256 of a request without a query whose body is compared byte by byte."""
    return hashlib.sha256(f"{method} {path}\n".encode() + body).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request with a key is answered, if it is the first one."""

    actor: str
    key: str
    fingerprint: str
    status: int
    body: Mapping[str, Any]


FIRST = """
INSERT INTO common_idempotentresponse (actor, key, fingerprint, status, body, created_at)
SELECT actor, key, fingerprint, status, body, %s
FROM jsonb_to_recordset(%s::jsonb) AS first (actor text, key text, fingerprint text, status int, body jsonb)
ON CONFLICT (actor, key) DO NOTHING RETURNING actor, key
"""


def remember_first(answers: Iterable[Answer], wire: Wire, *, now: datetime) -> list[str]:
    """Statements that store the answers of those requests whose (actor, key) is new. For use in a transaction.

    The last one returns the new pairs. Of several with one pair the first one counts. Whoever handles one of them
    meanwhile, wherever, is waited for.
    """
    first: dict[tuple[str, str], Answer] = {}
    for answer in answers:
        first.setdefault((answer.actor, answer.key), answer)
    if not first:
        return []
    lock = lock_names_statement(f"idempotency:{actor}:{key}" for actor, key in first)
    return [lock, wire.text(FIRST, [now, msgspec.json.encode(list(first.values())).decode()])]


def is_acceptable(key: str) -> bool:
    """Whether a header's text may be a key."""
    return ACCEPTABLE.fullmatch(key) is not None


def expire_responses(*, now: datetime) -> int:
    """Delete the answers that are older than 24 hours. Returns how many."""
    deleted, _ = IdempotentResponse.objects.filter(created_at__lt=now - KEEP).delete()
    return deleted


def _check(key: str) -> None:
    if not is_acceptable(key):
        detail = f"{HEADER} is 1 to 255 printable ASCII characters without spaces."
        raise InvalidInput(FieldProblem(f"header:{HEADER}", "invalid_idempotency_key", detail))


def _replay(actor: str, key: str, fingerprint: str, *, now: datetime) -> Response | None:
    stored = IdempotentResponse.objects.filter(actor=actor, key=key).first()
    if stored is None:
        return None
    if stored.created_at < now - KEEP:
        stored.delete()
        return None
    if stored.fingerprint != fingerprint:
        raise IdempotencyKeyReused(f"This {HEADER} came before with another request; use a new one.")
    return Response(stored.body, status=stored.status, headers={REPLAYED: "true"})


def _remember(
    actor: str, key: str, fingerprint: str, response: Response, secret_fields: Collection[str], *, now: datetime
) -> None:
    body = json.loads(json.dumps(response.data, cls=JSONEncoder))
    for name in secret_fields:
        body[name] = None
    IdempotentResponse.objects.create(
        actor=actor, key=key, fingerprint=fingerprint, status=response.status_code, body=body, created_at=now
    )
