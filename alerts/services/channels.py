"""Channels are added, changed and removed. Where a webhook leads is checked here, and again at each connection."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from alerts.models import Channel, ChannelKind
from alerts.notifiers.addresses import checked_url, port_of, resolve
from alerts.notifiers.errors import NotDelivered
from alerts.notifiers.signing import is_secret, mint_secret
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound

EDITABLE = ("name", "target", "secret", "min_severity", "cluster", "tenant", "gpu_model", "enabled")
PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"


class ChannelNameTaken(Conflict):
    """There is a channel of that name."""

    code = "channel_name_taken"


class ChannelHasHistory(Conflict):
    """Messages went, or are to go, to the channel, so it can't be deleted."""

    code = "channel_has_history"


def create_channel(*, name: str, kind: str, now: datetime, target: str = "", **fields: Any) -> Channel:
    """Add a channel; a webhook without a secret is given one. Raises ``ChannelNameTaken`` and ``InvalidInput``.

    The target is resolved before the transaction begins, since a name server may take its time.
    """
    channel = Channel(name=name, kind=kind, target=target, created_at=now, **fields)
    if kind == ChannelKind.PAGERDUTY and not target:
        channel.target = PAGERDUTY_URL
    if kind == ChannelKind.WEBHOOK and not channel.secret:
        channel.secret = mint_secret()
    check_channel(kind=kind, target=channel.target, secret=channel.secret)
    return _save(channel)


def update_channel(*, channel_id: int, changes: dict[str, Any]) -> Channel:
    """Change a channel; its kind stays. Raises ``NotFound`` and as ``create_channel``."""
    channel = _get(channel_id)
    target, secret = changes.get("target", channel.target), changes.get("secret", channel.secret)
    if {"target", "secret"} & set(changes):
        check_channel(kind=channel.kind, target=target, secret=secret)
    with transaction.atomic():
        locked = Channel.objects.select_for_update().filter(pk=channel_id).first()
        if locked is None:
            raise NotFound
        for name in EDITABLE:
            if name in changes:
                setattr(locked, name, changes[name])
        return _save(locked)


@transaction.atomic
def delete_channel(*, channel_id: int) -> None:
    """Delete a channel that was never used. Raises ``NotFound``, and ``ChannelHasHistory``: disable such a one."""
    try:
        _get(channel_id).delete()
    except ProtectedError as error:
        raise ChannelHasHistory("Messages to this channel are on record; disable it (PATCH enabled=false).") from error


def check_channel(*, kind: str, target: str, secret: str) -> None:
    """Raise ``InvalidInput`` for a target that can't or must not be spoken to, or a secret of the wrong form."""
    if kind == ChannelKind.EMAIL:
        _check_addresses(target)
    else:
        _check_url(target)
    if kind == ChannelKind.WEBHOOK and not is_secret(secret):
        raise InvalidInput(FieldProblem("#/secret", "invalid", "A secret is whsec_ and 24 to 64 bytes in base64."))
    if kind == ChannelKind.PAGERDUTY and not (secret.isascii() and secret.isalnum()):
        raise InvalidInput(FieldProblem("#/secret", "invalid", "PagerDuty needs its routing key as the secret."))
    if kind in (ChannelKind.EMAIL, ChannelKind.SLACK) and secret:
        raise InvalidInput(FieldProblem("#/secret", "invalid", "This kind of channel has no secret."))


def _check_addresses(target: str) -> None:
    try:
        for address in target.split(","):
            validate_email(address)
    except ValidationError as error:
        detail = "The target is one or more e-mail addresses, separated by commas without spaces."
        raise InvalidInput(FieldProblem("#/target", "invalid", detail)) from error


def _check_url(target: str) -> None:
    allowed = settings.ALERT_WEBHOOK_ALLOW
    try:
        parts = checked_url(target, allowed=allowed)
        resolve(parts.hostname or "", port_of(parts), allowed=allowed)
    except NotDelivered as error:
        raise InvalidInput(FieldProblem("#/target", "forbidden_target", str(error))) from error


def _get(channel_id: int) -> Channel:
    channel = Channel.objects.filter(pk=channel_id).first()
    if channel is None:
        raise NotFound
    return channel


def _save(channel: Channel) -> Channel:
    try:
        with transaction.atomic():
            channel.save()
    except IntegrityError as error:
        raise ChannelNameTaken(f"There is a channel named {channel.name!r}.") from error
    return channel
