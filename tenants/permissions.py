"""What a caller may do. The rules are rows on the views, read by one class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from tenants.callers import Caller, Scope

if TYPE_CHECKING:
    from rest_framework.views import APIView


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
