"""What Stripe hears of, says and disagrees on, in the operator's console."""

from collections.abc import Sequence

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from billing import services
from billing.models import OutboxMessage, OutboxStatus, StripeCustomer, StripeDifference, StripeEvent
from gpufleet.common.admin import (
    Answers,
    MayReasonForm,
    Question,
    ReadOnlyAdmin,
    actor_of,
    asks,
    counted,
    report,
    said_of,
)
from gpufleet.common.errors import DomainError


def _retrying(messages: Sequence[OutboxMessage]) -> list[str]:
    """Dead ones alone."""
    dead = sum(message.status == OutboxStatus.DEAD for message in messages)
    return [f"{said_of(dead, 'dead step')} sent to Stripe again within half a minute; the others are left alone."]


RETRY = Question("Try again", _retrying, ["status", "attempts"], form=MayReasonForm)


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    """What Stripe told us."""

    list_display = ["stripe_id", "type", "invoice", "outcome", "created_at", "received_at"]
    list_select_related = ["invoice"]
    list_filter = ["type"]
    search_fields = ["stripe_id"]


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    """What Stripe must hear of. A dead letter says why, and can be tried again."""

    list_display = ["__str__", "status", "attempts", "next_attempt_at", "last_error", "result"]
    list_filter = ["status", "step"]
    list_select_related = ["invoice"]
    search_fields = ["invoice__number", "invoice__stripe_invoice_id"]
    actions = ["retry"]

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whoever may change steps may try them again."""
        return request.user.has_perm("billing.change_outboxmessage")

    def applies(self, action: str, row: OutboxMessage) -> bool:
        """To what is dead."""
        return row.status == OutboxStatus.DEAD

    @asks(RETRY, description="Try dead letters again", permission="retry")
    def retry(self, request: HttpRequest, messages: QuerySet[OutboxMessage], answers: Answers) -> None:
        """After what they were refused for is mended."""
        ids = [message.pk for message in messages]
        try:
            revived = services.retry_steps(message_ids=ids, actor=actor_of(request), now=timezone.now())
            report(request, f"{counted(revived, 'step')} will be tried again.", [])
        except DomainError as refusal:
            report(request, "Nothing was changed.", [refusal])


@admin.register(StripeCustomer)
class StripeCustomerAdmin(ReadOnlyAdmin):
    """Who each tenant is at Stripe."""

    list_display = ["tenant", "stripe_id", "created_at"]
    list_select_related = ["tenant"]
    search_fields = ["tenant__name", "stripe_id"]


@admin.register(StripeDifference)
class StripeDifferenceAdmin(ReadOnlyAdmin):
    """What Stripe and we do not agree on. Nothing mends it silently."""

    list_display = ["invoice", "stripe_invoice_id", "what", "ours", "theirs", "found_at", "last_seen_at", "gone_at"]
    list_filter = ["what", ("gone_at", admin.EmptyFieldListFilter)]
    list_select_related = ["invoice"]
    search_fields = ["stripe_invoice_id", "invoice__number"]
