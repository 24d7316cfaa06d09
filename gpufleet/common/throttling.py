"""Rate limits by key, or by address where no valid key is shown: 429 with ``Retry-After``."""

import functools
import time

import redis
import structlog
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework.exceptions import Throttled
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from gpufleet.common.senders import sender_of

logger = structlog.stdlib.get_logger(__name__)

WINDOW_S = 60
# Redis is a doorbell, never a record: without it nobody is limited, and nobody waits for it either. An answer takes
# well under a millisecond; whoever has not answered by then is not asked again for a while.
PATIENCE_S = 0.1
LEFT_ALONE_S = 5.0


class Counter:
    """Requests counted by bucket and minute in Redis."""

    def __init__(self, url: str) -> None:
        self._redis = redis.Redis.from_url(
            url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0)
        )
        self._left_alone_until = 0.0

    def count(self, bucket: str, *, window: int, requests: int = 1) -> int:
        """The last of these requests' number within its bucket and window, or 0 when Redis can't say."""
        if time.monotonic() < self._left_alone_until:
            return 0
        name = f"gpufleet:rate:{bucket}:{window}"
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.incrby(name, requests)
                pipeline.expire(name, WINDOW_S)
                number, _ = pipeline.execute()
        except redis.RedisError as error:
            self._left_alone_until = time.monotonic() + LEFT_ALONE_S
            logger.warning("rate limits are off while Redis is away", error=str(error))
            return 0
        return int(number)


@functools.cache
def counter_at(url: str) -> Counter:
    """The counter of this process for a Redis."""
    return Counter(url)


def check_rate(request: Request, *, now: float) -> None:
    """Count the request in its minute (``now`` in seconds since the epoch). Raises ``Throttled`` beyond the limit."""
    bucket, limit = _bucket_of(request)
    window, elapsed = divmod(now, WINDOW_S)
    if counter_at(settings.REDIS_URL).count(bucket, window=int(window)) > limit:
        raise Throttled(wait=WINDOW_S - elapsed)


def is_over_limit(*, actor: str, requests: int, now: float) -> bool:
    """Count requests of a key that came together. Whether they are more than it may send in this minute."""
    window = int(now // WINDOW_S)
    number = counter_at(settings.REDIS_URL).count(actor, window=window, requests=requests)
    return number > settings.API_RATE_PER_KEY


def _bucket_of(request: Request) -> tuple[str, int]:
    sender = sender_of(request)
    if sender is not None and sender.key_id is not None:
        return sender.actor, settings.API_RATE_PER_KEY
    return BaseThrottle().get_ident(request), settings.API_RATE_ANONYMOUS


class RateLimitMixin:
    """Counts each request as soon as its sender is known, before anything is refused or done."""

    def perform_authentication(self, request: Request) -> None:
        """Authenticate, then count; senders without a valid key are counted by their address."""
        try:
            super().perform_authentication(request)  # type: ignore[misc]  # a mixin for APIView
        finally:
            check_rate(request, now=time.time())
