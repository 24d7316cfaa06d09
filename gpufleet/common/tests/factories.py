"""Requests as views get them, without a route; and people in front of the console."""

import json
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from gpufleet.common.parsing import StrictJSONParser


@dataclass(frozen=True)
class Someone:
    """An authenticated sender."""

    actor: str = "key:1"
    key_id: int | None = 1


def make_request(
    method: str = "get", path: str = "/api/things", body: Any = None, sender: Any = None, **headers: str
) -> Request:
    """A request of the framework's, with JSON in its body and a sender if one is given."""
    content: Any = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    http = APIRequestFactory().generic(method.upper(), path, content, "application/json", headers=headers)
    request = Request(http, parsers=[StrictJSONParser()])
    request.user, request.auth = sender, sender
    return request


def staff(*permissions: str, name: str = "eve") -> Client:
    """A browser in which a member of staff with exactly these permissions is logged in."""
    user = User.objects.create_user(name, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client
