"""The audit log of the console: what a person did, written before the deed and completed after it."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db.models import Model

from gpufleet.common.models import AuditEntry


@contextmanager
def audited(
    rows: Sequence[Model], *, action: str, fields: Collection[str], actor: str, reason: str, now: datetime
) -> Iterator[None]:
    """Write down what is done to these rows within: for each an entry with its ``fields`` before and after.

    The entries are there before the deed, so that nothing goes unrecorded when it dies half-way; those whose rows it
    left as they were say so by an ``after`` that equals ``before``.
    """
    entries = AuditEntry.objects.bulk_create(
        _entry(row, at=now, actor=actor, action=action, reason=reason[:500], before=shown(row, fields)) for row in rows
    )
    yield
    if entries:
        present = type(rows[0])._base_manager.in_bulk([row.pk for row in rows])
        for entry in entries:
            entry.after = shown(present[entry.object_id], fields) if entry.object_id in present else {}
        AuditEntry.objects.bulk_update(entries, ["after"])


def record_edit(
    row: Model,
    *,
    action: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    actor: str,
    now: datetime,
    reason: str = "",
) -> None:
    """Write down that a row was made or changed, in the transaction in which it was."""
    values = {"before": plain(before), "after": plain(after), "reason": reason[:500]}
    _entry(row, at=now, actor=actor, action=action, **values).save()


def _entry(row: Model, **values: Any) -> AuditEntry:
    """An entry about this row, not saved."""
    return AuditEntry(model=row._meta.label_lower, object_id=row.pk, name=str(row)[:300], **values)


def shown(row: Model, fields: Iterable[str]) -> dict[str, Any]:
    """These fields of a row as JSON has them."""
    return plain({field: getattr(row, field) for field in fields})


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: numbers, words and nothing stay, everything else in words."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Model):
        return f"{value} ({value.pk})"
    if isinstance(value, Iterable):
        return [_plain(one) for one in value]
    return str(value)
