"""Who a request comes from, and what it may see and do. The rules are rows on the views, read by one class."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from django.db.models import Model, QuerySet
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

if TYPE_CHECKING:
    from rest_framework.views import APIView

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


@dataclass(frozen=True, slots=True)
class Access:
    """The rule of one action: the scope it needs, and whether tenant-bound and cluster keys may call it at all."""

    scope: Scope
    tenants: bool = False
    clusters: bool = False


READ = Access(Scope.READ, tenants=True)
READ_FLEET = Access(Scope.READ)
WRITE = Access(Scope.WRITE, tenants=True)
WRITE_FLEET = Access(Scope.WRITE)
REPORT = Access(Scope.WRITE, clusters=True)
ADMIN = Access(Scope.ADMIN)


def caller_of(request: Request) -> Caller:
    """The caller of a request that has passed authentication."""
    return cast("Caller", request.auth)


class HasScope(BasePermission):
    """Reads the view's ``access`` table. An action without a row is refused to everybody."""

    message: ClassVar[str] = "The key may not do this."

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """401 without a caller, 403 without the right. A method that the route lacks goes on to its 405, and
        OPTIONS says which it has.
        """
        caller = cast("Caller | None", request.auth)
        if caller is None:
            return False
        action: str | None = getattr(view, "action", None)
        if action in (None, "metadata"):
            return True
        table: Mapping[str, Access] = getattr(view, "access", {})
        rule = table.get(action)
        return rule is not None and _allows(rule, caller)


def _allows(rule: Access, caller: Caller) -> bool:
    if caller.is_cluster_key:
        return rule.clusters
    if caller.tenant_id is not None and not rule.tenants:
        return False
    return caller.has(rule.scope)


def visible_to(rows: QuerySet[Row], caller: Caller, *, field: str = "tenant_id") -> QuerySet[Row]:
    """Narrow a queryset to the rows of the caller's tenant; callers without a tenant see all."""
    return rows if caller.tenant_id is None else rows.filter(**{field: caller.tenant_id})
