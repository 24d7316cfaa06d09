"""Bearer authentication of the API."""

from typing import Any

from django.conf import settings
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from apikeys import queries, services
from apikeys.models import ApiKey, KeyKind
from tenants.callers import Caller, CallerKind, Scope

DEMO_VISITOR = Caller(kind=CallerKind.DEMO, scopes=frozenset({Scope.READ}), actor="demo")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class BearerKeyAuthentication(BaseAuthentication):
    """``Authorization: Bearer gfk_…``; without the header a read-only visitor, in demo mode alone."""

    def authenticate(self, request: Request) -> tuple[Caller, Caller] | None:
        """The caller, twice, as the framework wants user and auth. Raises ``AuthenticationFailed`` (401)."""
        header = request.headers.get("Authorization")
        if header is None:
            return self._visitor(request)
        scheme, _, raw = header.partition(" ")
        now = timezone.now()
        key = queries.find_live_key(raw.strip(), now=now) if scheme.lower() == "bearer" else None
        if key is None:
            raise AuthenticationFailed(
                "The key is not valid: unknown, expired, revoked, or of an inactive tenant.", code="invalid_key"
            )
        services.note_use(key=key, now=now)
        caller = caller_of_key(key)
        return caller, caller

    def authenticate_header(self, request: Request) -> str:
        """What a 401 says in ``WWW-Authenticate``."""
        return "Bearer"

    def _visitor(self, request: Request) -> tuple[Caller, Caller] | None:
        if settings.GPUFLEET_DEMO and request.method in SAFE_METHODS:
            return DEMO_VISITOR, DEMO_VISITOR
        return None


class BearerKeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its base registers it
    """How the OpenAPI document names the keys."""

    target_class = "apikeys.authentication.BearerKeyAuthentication"
    name = "bearerKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """An HTTP bearer scheme."""
        return {"type": "http", "scheme": "bearer", "bearerFormat": "gfk_…"}


def caller_of_key(key: ApiKey) -> Caller:
    """Who a key speaks for."""
    kind = CallerKind.CLUSTER_KEY if key.kind == KeyKind.CLUSTER else CallerKind.KEY
    return Caller(
        kind=kind,
        scopes=frozenset(Scope(name) for name in key.permissions),
        actor=f"key:{key.pk}",
        key_id=key.pk,
        tenant_id=key.tenant_id,
    )
