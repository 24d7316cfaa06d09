"""Rate limits by key, or by address where no key is shown: 429 with ``Retry-After``."""

import logging
from typing import Any, TYPE_CHECKING

from django.conf import settings
from redis.exceptions import RedisError
from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

if TYPE_CHECKING:
    from rest_framework.views import APIView

logger = logging.getLogger(__name__)


class KeyRateThrottle(SimpleRateThrottle):
    """A sliding minute in the cache. Redis is a doorbell, never a record: without it nobody is limited."""

    scope = "key"

    def get_rate(self) -> str:
        """The rate before the caller is known; ``allow_request`` picks the caller's own."""
        return str(settings.API_RATE_ANONYMOUS)

    def get_cache_key(self, request: Request, view: "APIView") -> str | None:
        """One bucket a key, or one an address."""
        caller = request.auth
        ident = caller.actor if caller is not None and caller.key_id is not None else self.get_ident(request)
        return str(self.cache_format % {"scope": self.scope, "ident": ident})

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Whether this request is within its bucket."""
        caller = request.auth
        known = caller is not None and caller.key_id is not None
        rate = settings.API_RATE_PER_KEY if known else settings.API_RATE_ANONYMOUS
        self.num_requests, self.duration = self.parse_rate(rate)
        try:
            allowed: Any = super().allow_request(request, view)
        except RedisError as error:
            logger.warning("rate limit not checked: %s", error)
            return True
        return bool(allowed)
