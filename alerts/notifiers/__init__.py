"""Speaking to the outside: one message to one channel. Nothing here touches the database."""

import smtplib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings
from django.core.mail import EmailMessage

from alerts.letters import Letter
from alerts.notifiers.errors import NotDelivered, Refused
from alerts.notifiers.formats import for_pagerduty, for_slack, for_webhook
from alerts.notifiers.http import post
from alerts.notifiers.signing import signature_headers

__all__ = ["Envelope", "NotDelivered", "Refused", "deliver"]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address. ``uid`` is the same in each try, so that a receiver knows a repetition."""

    kind: str
    target: str
    secret: str
    uid: str
    letter: Letter


def deliver(envelope: Envelope, *, now: datetime) -> None:
    """Send it, within ten seconds or so. Raises ``Refused`` when that is final, else ``NotDelivered``."""
    SENDERS[envelope.kind](envelope, now)


def _email(envelope: Envelope, now: datetime) -> None:
    if not settings.EMAIL_HOST:
        raise NotDelivered("No mail server is set (EMAIL_URL).")
    message = EmailMessage(
        subject=" ".join(envelope.letter["title"].split()),
        body=envelope.letter["text"],
        to=envelope.target.split(","),
        headers={"Message-ID": f"<{envelope.uid}@gpufleet>", "Auto-Submitted": "auto-generated"},
    )
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        failure = Refused if all(500 <= code < 600 for code in codes) else NotDelivered
        raise failure(f"The mail server took none of the addresses: {sorted(codes)}.") from error
    except (OSError, smtplib.SMTPException) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}"[:300]) from error


def _webhook(envelope: Envelope, now: datetime) -> None:
    body = for_webhook(envelope.letter)
    _post(envelope, body, signature_headers(envelope.secret, f"msg_{envelope.uid}", int(now.timestamp()), body))


def _slack(envelope: Envelope, now: datetime) -> None:
    _post(envelope, for_slack(envelope.letter))


def _pagerduty(envelope: Envelope, now: datetime) -> None:
    _post(envelope, for_pagerduty(envelope.letter, envelope.secret))


def _post(envelope: Envelope, body: bytes, headers: dict[str, str] | None = None) -> None:
    known = {"Content-Type": "application/json", "User-Agent": "gpufleet", "Idempotency-Key": envelope.uid}
    post(envelope.target, body, {**known, **(headers or {})}, allowed=settings.ALERT_WEBHOOK_ALLOW)


SENDERS: dict[str, Callable[[Envelope, datetime], None]] = {
    "email": _email,
    "webhook": _webhook,
    "slack": _slack,
    "pagerduty": _pagerduty,
}
