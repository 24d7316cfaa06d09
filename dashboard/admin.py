"""Who may enter the console: Django's own users and groups, in the console's clothes.

Nobody gives what he has not: a person who is no superuser makes none, gives only permissions of his own, and neither
edits, deletes nor sets the password of whoever may do more than he.
"""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from gpufleet.common import audit
from gpufleet.common.admin import actor_of

admin.site.unregister(User)
admin.site.unregister(Group)

SECRET = "password"  # noqa: S105  # A part of fields' names, whose values are in no log.


class RightsAdmin(ModelAdmin):  # type: ignore[misc]  # unfold is untyped
    """Pages that give rights: no more than one's own, and all in the audit log."""

    def rights_of(self, row: Any) -> QuerySet[Permission]:
        """What whoever is behind this row may do."""
        raise NotImplementedError

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Of those who may do no more than this person."""
        return bool(super().has_change_permission(request, obj)) and self._within(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Of those who may do no more than this person."""
        return bool(super().has_delete_permission(request, obj)) and self._within(request, obj)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Only what this person has is there to be given, and the form refuses everything else."""
        field = super().formfield_for_manytomany(db_field, request, **kwargs)
        if field is not None and not _all(request):
            beyond = _beyond(request, Permission.objects.all())
            if db_field.related_model is Permission:
                field.queryset = field.queryset.exclude(pk__in=beyond)
            elif db_field.related_model is Group:
                field.queryset = field.queryset.exclude(permissions__in=beyond)
        return field

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Into the audit log too, without passwords."""
        row = form.instance if hasattr(form, "instance") else form.user
        changed = list(form.cleaned_data) if add else form.changed_data
        audit.record_edit(
            row,
            action="add" if add else "edit",
            before={} if add else _legible(getattr(form, "initial", {}), changed),
            after=_legible(form.cleaned_data, changed, "was set"),
            actor=actor_of(request),
            now=timezone.now(),
        )
        return super().construct_change_message(request, form, formsets, add)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Into the audit log too."""
        for row in queryset:
            rights = sorted(str(one) for one in self.rights_of(row))
            before = {"rights": rights}
            audit.record_edit(
                row, action="delete", before=before, after={}, actor=actor_of(request), now=timezone.now()
            )
        return super().log_deletions(request, queryset)

    def _within(self, request: HttpRequest, row: Any) -> bool:
        if row is None or _all(request):
            return True
        return not getattr(row, "is_superuser", False) and not _beyond(request, self.rights_of(row))


def _all(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)


def _beyond(request: HttpRequest, permissions: QuerySet[Permission]) -> list[int]:
    """Those of the permissions that this person has not."""
    mine = request.user.get_all_permissions()
    rows = permissions.values_list("pk", "content_type__app_label", "codename")
    return [pk for pk, app, codename in rows if f"{app}.{codename}" not in mine]


def _legible(values: Any, names: Iterable[str], secret: str = "") -> dict[str, Any]:
    return {name: secret if SECRET in name else values.get(name) for name in names}


@admin.register(User)
class UserAdmin(DjangoUserAdmin, RightsAdmin):  # type: ignore[type-arg]  # not subscriptable at run time
    """People. What they may do comes from their groups."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "email", "shown_groups", "is_active", "is_staff", "is_superuser", "last_login"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """With their groups."""
        people: QuerySet[User] = super().get_queryset(request)
        return people.prefetch_related("groups")

    @admin.display(description="Groups")
    def shown_groups(self, user: User) -> str:
        """What decides what they may do."""
        return ", ".join(sorted(group.name for group in user.groups.all())) or "-"

    def rights_of(self, row: User) -> QuerySet[Permission]:
        """Its own and its groups', also while it is inactive."""
        return Permission.objects.filter(Q(user=row) | Q(group__user=row)).distinct()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Only superusers make superusers."""
        known = super().get_readonly_fields(request, obj)
        return known if _all(request) else [*known, "is_superuser"]

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Who asks for it past the form is refused."""
        if "is_superuser" in request.POST and not _all(request):
            raise PermissionDenied
        response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        return response


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, RightsAdmin):
    """Groups: viewer, operator, finance and administrator come with the installation."""

    def rights_of(self, row: Group) -> QuerySet[Permission]:
        """Its own."""
        return row.permissions.all()
