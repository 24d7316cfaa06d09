import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction

from gpufleet.common.errors import FieldProblem, InvalidInput, NotFound, violated_constraint


def test_one_fault_speaks_for_itself_and_several_are_counted() -> None:
    first, second = FieldProblem("#/a", "x", "a is wrong."), FieldProblem("#/b", "y", "b is wrong.")
    assert InvalidInput(first).detail == "a is wrong."
    assert InvalidInput(first, second).detail == "2 things are not valid; see errors."
    assert second.as_dict() == {"pointer": "#/b", "code": "y", "detail": "b is wrong."}


def test_what_is_missing_is_described_by_no_figure() -> None:
    assert (NotFound().detail, NotFound().data) == ("There is no such resource.", {})


@pytest.mark.django_db
def test_the_constraint_that_refused_a_row_is_named() -> None:
    User.objects.create(username="x")
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        User.objects.create(username="x")
    assert violated_constraint(caught.value) == "auth_user_username_key"


def test_an_error_without_a_cause_names_none() -> None:
    assert violated_constraint(IntegrityError("?")) is None
