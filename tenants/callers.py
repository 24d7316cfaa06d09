"""Who a request comes from, and which rows that one may know of. Knows nothing of HTTP."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from django.db.models import Model, QuerySet

Row = TypeVar("Row", bound=Model)


class Scope(StrEnum):
    """What a key may do. ``admin`` implies the other two; ``write`` does not imply ``read``."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class CallerKind(StrEnum):
    """What stands behind a request."""

    KEY = "key"
    CLUSTER_KEY = "cluster_key"
    DEMO = "demo"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated sender of a request. ``actor`` names it in audit rows."""

    kind: CallerKind
    scopes: frozenset[Scope]
    actor: str
    key_id: int | None = None
    tenant_id: int | None = None

    def has(self, scope: Scope) -> bool:
        """Whether the caller holds the scope, itself or through ``admin``."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    @property
    def is_cluster_key(self) -> bool:
        """A cluster's own key: registers and reports its cluster's hardware, and nothing else."""
        return self.kind is CallerKind.CLUSTER_KEY


def visible_to(rows: QuerySet[Row], caller: Caller, *, field: str = "tenant_id") -> QuerySet[Row]:
    """Narrow a queryset to the rows of the caller's tenant; callers without a tenant see all."""
    return rows if caller.tenant_id is None else rows.filter(**{field: caller.tenant_id})
