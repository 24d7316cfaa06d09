"""The pages that serve the OpenAPI document: as it is, and for people."""

import functools
from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from gpufleet.common.query import StrictParametersMixin
from gpufleet.common.throttling import RateLimitMixin


@functools.cache
def openapi_document() -> dict[str, Any]:
    """The document of this process: the same for everybody, and too dear to make for each who asks."""
    document: dict[str, Any] = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return document


class SchemaView(RateLimitMixin, StrictParametersMixin, SpectacularJSONAPIView):
    """The OpenAPI document, for everybody."""

    def _get_schema_response(self, request: Request) -> Response:
        return Response(openapi_document())


class DocsView(RateLimitMixin, StrictParametersMixin, SpectacularSwaggerView):
    """Swagger UI, with assets of our own."""

    def handle_exception(self, exc: Exception) -> Response:
        """A problem document, as everywhere; no template has words for it."""
        response: Response = super().handle_exception(exc)
        self.request.accepted_renderer = JSONRenderer()
        return response
