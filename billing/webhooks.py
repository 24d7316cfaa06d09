"""Stripe's webhook: its signature is its authentication, and one service handles its event."""

from typing import Any, cast

from django.conf import settings
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer

from billing import services
from billing.gateway import BadSignature, RemoteEvent
from billing.stripe_gateway import read_event
from gpufleet.common.api import ApiViewSet

SIGNATURE = "Stripe-Signature"


class StripeSender:
    """Stripe, as the floor's rate limit and log see it."""

    actor = "stripe"
    key_id = 0
    is_authenticated = True

    def __init__(self, event: RemoteEvent) -> None:
        self.event = event


class StripeSignature(BaseAuthentication):
    """The ``Stripe-Signature`` header over the body, by the endpoint's secret."""

    def authenticate(self, request: Request) -> tuple[StripeSender, StripeSender]:
        """Stripe and its event. Raises ``AuthenticationFailed`` (401)."""
        if not settings.STRIPE_WEBHOOK_SECRET:
            raise AuthenticationFailed("Stripe's webhook is not set up: there is no STRIPE_WEBHOOK_SECRET.")
        try:
            sender = StripeSender(read_event(request.body, request.headers.get(SIGNATURE, "")))
        except BadSignature as error:
            raise AuthenticationFailed(str(error)) from error
        return sender, sender

    def authenticate_header(self, request: Request) -> str:
        """What a 401 says in ``WWW-Authenticate``."""
        return SIGNATURE


class StripeSignatureScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its base registers it
    """How the OpenAPI document names the signature."""

    target_class = "billing.webhooks.StripeSignature"
    name = "stripeSignature"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A header."""
        return {"type": "apiKey", "in": "header", "name": SIGNATURE}


class StripeWebhookViewSet(ApiViewSet):
    """Where Stripe sends its events."""

    authentication_classes = [StripeSignature]
    permission_classes = [IsAuthenticated]
    serializer_class = Serializer

    @extend_schema(request={"application/json": {"type": "object"}}, responses={204: OpenApiResponse()})
    def create(self, request: Request) -> Response:
        """Handle an event, once, in whatever order it comes."""
        sender = cast("StripeSender", request.auth)
        services.handle_event(sender.event, now=timezone.now())
        return Response(status=204)
