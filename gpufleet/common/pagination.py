"""Lists are bare JSON arrays, newest first, with an RFC 8288 ``Link: <…>; rel="next"`` while there is more."""

import base64
import binascii
from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet
from rest_framework.pagination import BasePagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from gpufleet.common.errors import FieldProblem, InvalidInput
from gpufleet.common.query import LARGEST_ID, parse_bounded_int

if TYPE_CHECKING:
    from rest_framework.views import APIView

DEFAULT_LIMIT = 100
MAX_LIMIT = 500


def encode_cursor(last_id: int) -> str:
    """An opaque place in a list: after the row with this id."""
    return base64.urlsafe_b64encode(f"id:{last_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    """The id in a cursor. Raises ``InvalidInput`` when we did not make it."""
    problem = FieldProblem("?cursor", "invalid_cursor", "The cursor is not one that this API gave out.")
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(problem) from error
    prefix, _, digits = text.partition(":")
    if prefix != "id" or not digits.isdigit() or len(digits) > 19 or int(digits) > LARGEST_ID:
        raise InvalidInput(problem)
    return int(digits)


class LinkPagination(BasePagination):
    """Keyset pagination by descending id: its cost does not grow with the page, and rows that arrive shift nothing.

    A view may set ``page_limit = (default, maximum)``.
    """

    next_url: str | None = None

    def paginate_queryset(  # type: ignore[override]  # keyset pages need a queryset, never a plain sequence
        self, queryset: QuerySet[Any], request: Request, view: "APIView | None" = None
    ) -> list[Any]:
        """Read one row more than the page holds, to learn whether a next page exists."""
        default, maximum = getattr(view, "page_limit", (DEFAULT_LIMIT, MAX_LIMIT))
        params = request.query_params
        limit = parse_bounded_int(params.get("limit"), name="limit", default=default, low=1, high=maximum)
        if "cursor" in params:
            queryset = queryset.filter(pk__lt=decode_cursor(params["cursor"]))
        rows = list(queryset.order_by("-pk")[: limit + 1])
        page = rows[:limit]
        self.next_url = None
        if len(rows) > limit:
            url = request.build_absolute_uri()
            self.next_url = replace_query_param(url, "cursor", encode_cursor(page[-1].pk))
        return page

    def get_paginated_response(self, data: Any) -> Response:
        """The bare array, and where the next page is."""
        headers = {"Link": f'<{self.next_url}>; rel="next"'} if self.next_url else None
        return Response(data, headers=headers)

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema of a page is the schema of the array itself."""
        return schema

    def get_schema_operation_parameters(self, view: "APIView") -> list[dict[str, Any]]:
        """``limit`` and ``cursor`` for OpenAPI."""
        default, maximum = getattr(view, "page_limit", (DEFAULT_LIMIT, MAX_LIMIT))
        return [
            {
                "name": "limit",
                "in": "query",
                "description": "Rows in one page.",
                "schema": {"type": "integer", "minimum": 1, "maximum": maximum, "default": default},
            },
            {
                "name": "cursor",
                "in": "query",
                "description": "Where to go on: taken from the Link header of the page before.",
                "schema": {"type": "string"},
            },
        ]
