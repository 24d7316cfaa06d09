"""Shapes of keys on the wire."""

from typing import Any

from rest_framework import serializers

from apikeys.models import KeyKind, Permission
from gpufleet.common.serializers import IdField, InstantField, StrictSerializer


class KeyInputSerializer(StrictSerializer):
    """A new key. It is always a client's: a cluster's own key is made with its cluster."""

    label = serializers.CharField(max_length=200)  # type: ignore[assignment]  # the contract's name for it
    tenant_id = IdField(allow_null=True, required=False)
    permissions = serializers.ListField(
        child=serializers.ChoiceField(choices=Permission.choices),
        allow_empty=False,
        required=False,
        help_text='["read", "write"] when left out.',
    )
    expires_at = InstantField(allow_null=True, required=False)


class KeySerializer(serializers.Serializer[Any]):
    """A key as it is listed: never the key itself."""

    id = serializers.IntegerField()
    label = serializers.CharField()  # type: ignore[assignment]  # the contract's name for it
    kind = serializers.ChoiceField(choices=KeyKind.choices)
    prefix = serializers.CharField(help_text="Its first characters, to recognise it by.")
    permissions = serializers.ListField(child=serializers.ChoiceField(choices=Permission.choices))
    tenant_id = serializers.IntegerField(allow_null=True)
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    last_used_at = serializers.DateTimeField(allow_null=True, help_text="To the minute.")
    expires_at = serializers.DateTimeField(allow_null=True)
    revoked_at = serializers.DateTimeField(allow_null=True)


class IssuedKeySerializer(KeySerializer):
    """The one answer with the raw key, made of an ``IssuedKey``'s two parts."""

    key = serializers.CharField(
        allow_null=True, source="raw", help_text="The raw key, this once. Null when the answer is a replay."
    )

    def to_representation(self, instance: Any) -> dict[str, Any]:
        """The listed members and the raw key."""
        return {**KeySerializer(instance.key).data, "key": instance.raw}
