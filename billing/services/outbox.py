"""The sender: takes one due step of the outbox after the other to Stripe, and survives being killed anywhere.

A step is claimed by a lease, not by a lock: no transaction is open while Stripe is spoken to, and the step of a killed
sender is due again when its lease ends. Whoever makes a call for the second time makes it with the same key, or looks
first whether the first one acted.
"""

from datetime import datetime, timedelta

import structlog
from django.db import connection, transaction
from django.db.models import F

from billing.gateway import Gateway, GatewayError, Refused, Uncertain, Unreachable
from billing.models import OutboxMessage, OutboxStatus, OutboxStep
from billing.services.steps import STEPS, Step
from gpufleet.common.failpoints import reach

logger = structlog.stdlib.get_logger(__name__)

# Longer than every call of a step together can take.
LEASE = timedelta(minutes=3)
# Stripe forgets keys after 24 hours at the earliest.
KEY_LIFE = timedelta(hours=23)
# The waits double from the first to the longest: all tries together span a day and a half.
FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=4)
MOST_ATTEMPTS = 18

# The oldest due step, if all earlier ones of its invoice are done. A dead one holds up its own invoice alone.
CLAIM = """
    UPDATE billing_outboxmessage
       SET attempts = attempts + 1, next_attempt_at = %(until)s
     WHERE id = (
           SELECT message.id
             FROM billing_outboxmessage AS message
            WHERE message.status = 'pending' AND message.next_attempt_at <= %(now)s
              AND NOT EXISTS (SELECT FROM billing_outboxmessage AS earlier
                               WHERE earlier.invoice_id = message.invoice_id AND earlier.id < message.id
                                 AND earlier.status <> 'done')
            ORDER BY message.next_attempt_at, message.id
            LIMIT 1
              FOR UPDATE SKIP LOCKED)
    RETURNING id
"""


def send_next(gateway: Gateway, *, now: datetime) -> bool:
    """Take one due step to Stripe. Returns whether to go on: not when none is due, nor when Stripe is away."""
    message = _claim(now)
    if message is None:
        return False
    step = STEPS[OutboxStep(message.step)]
    needless = step.needless(message)
    try:
        result = needless or _perform(gateway, step, message, now)
    except GatewayError as error:
        _fail(message, error, now)
        return not isinstance(error, Unreachable)
    reach(f"outbox.{message.step}.done")
    _finish(message, step, result, made=not needless, now=now)
    reach(f"outbox.{message.step}.recorded")
    return True


def wait_after(attempts: int) -> timedelta:
    """How long a step rests after so many tries."""
    doublings = min(attempts - 1, 16)
    return min(FIRST_WAIT * (1 << doublings), LONGEST_WAIT)


def _claim(now: datetime) -> OutboxMessage | None:
    with connection.cursor() as cursor:
        cursor.execute(CLAIM, {"now": now, "until": now + LEASE})
        row = cursor.fetchone()
    if row is None:
        return None
    related = ("invoice__tenant__stripe_customer", "line", "credit_note")
    return OutboxMessage.objects.select_related(*related).get(pk=row[0])


def _perform(gateway: Gateway, step: Step, message: OutboxMessage, now: datetime) -> str:
    if message.uncertain or now - message.key_made_at >= KEY_LIFE:
        found = step.find(gateway, message)
        if found is not None:
            return found
        _renew_key(message, now)
    try:
        return step.act(gateway, message, now)
    except Refused:
        found = step.find(gateway, message)
        if found is None:
            raise
        return found


def _renew_key(message: OutboxMessage, now: datetime) -> None:
    """Committed before it is used, so that a sender that is killed over the call repeats it under the same key."""
    message.generation += 1
    message.key_made_at, message.uncertain = now, False
    message.save(update_fields=["generation", "key_made_at", "uncertain"])


@transaction.atomic
def _finish(message: OutboxMessage, step: Step, result: str, *, made: bool, now: datetime) -> None:
    if made:
        step.keep(message, result)
    OutboxMessage.objects.filter(pk=message.pk).update(
        status=OutboxStatus.DONE, result=result[:255], last_error="", uncertain=False, done_at=now
    )
    logger.info("stripe step done", step=message.step, invoice_id=message.invoice_id, result=result)


def _fail(message: OutboxMessage, error: GatewayError, now: datetime) -> None:
    """A refusal is final; anything else is tried again, later each time, until it has been tried enough."""
    dead = isinstance(error, Refused) or message.attempts >= MOST_ATTEMPTS
    OutboxMessage.objects.filter(pk=message.pk, status=OutboxStatus.PENDING).update(
        status=OutboxStatus.DEAD if dead else OutboxStatus.PENDING,
        uncertain=F("uncertain") if isinstance(error, Unreachable) else isinstance(error, Uncertain),
        last_error=str(error)[:500],
        next_attempt_at=now + wait_after(message.attempts),
    )
    logger.warning("stripe step failed", step=message.step, invoice_id=message.invoice_id, dead=dead, error=str(error))
