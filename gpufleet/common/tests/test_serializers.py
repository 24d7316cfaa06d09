from typing import Any

import pytest
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from gpufleet.common.serializers import FiniteFloatField, IdField, InstantField, StrictSerializer, checked_body
from gpufleet.common.tests.factories import make_request


class Inner(StrictSerializer):
    size = serializers.IntegerField()


class Outer(StrictSerializer):
    name = serializers.CharField()
    id = serializers.IntegerField(read_only=True)
    inner = Inner(required=False)


def codes(data: Any) -> Any:
    serializer = Outer(data=data)
    assert not serializer.is_valid()
    return dict(serializer.errors)


def test_only_declared_fields_are_taken_at_every_depth() -> None:
    assert list(codes({"name": "x", "nmae": "y"})) == ["nmae"]
    assert list(codes({"name": "x", "id": 5})) == ["id"]
    assert list(codes({"name": "x", "inner": {"size": 1, "sise": 2}})["inner"]) == ["sise"]
    assert "Known: inner, name." in str(codes({"x": 1}))


@pytest.mark.parametrize("data", [None, [], "x", 5, True])
def test_what_is_no_object_is_refused(data: Any) -> None:
    assert not Outer(data=data).is_valid()


def test_the_body_comes_back_checked() -> None:
    request = make_request("post", body={"name": " x "})
    assert checked_body(Outer, request) == {"name": "x"}
    assert checked_body(Outer, make_request("post", body={}), partial=True) == {}
    with pytest.raises(ValidationError):
        checked_body(Outer, make_request("post", body={}))


@pytest.mark.parametrize("value", [0, -1, 2**63, 10**400, 1.5, True, "x", None, [], {}])
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        IdField().run_validation(value)


def test_the_largest_id_fits() -> None:
    assert IdField().run_validation(2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize("value", ["2026-11-23", "2026-11-23T12:00:00", 5, None, [], "", True])
def test_what_is_no_instant_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        InstantField().run_validation(value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", 10**400, -(10**400), "x", [], None])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        FiniteFloatField().run_validation(value)
