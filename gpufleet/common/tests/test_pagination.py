import base64
import contextlib
import re
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import User
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.common.errors import InvalidInput
from gpufleet.common.pagination import LinkPagination, decode_cursor, encode_cursor
from gpufleet.common.tests.factories import make_request

PATH = "/api/things"


class View:
    page_limit = (3, 5)


def read(path: str, view: object = None) -> tuple[list[str], str | None]:
    """The names on a page, and where the next one is."""
    pagination = LinkPagination()
    page = pagination.paginate_queryset(User.objects.all(), make_request(path=path), view)  # type: ignore[arg-type]
    answer = pagination.get_paginated_response([user.username for user in page])
    found = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("Link", ""))
    return answer.data, found.group(1) if found else None


@pytest.fixture
def users() -> None:
    for number in range(1, 8):
        User.objects.create(username=str(number))


@pytest.mark.django_db
@pytest.mark.usefixtures("users")
def test_pages_are_newest_first_and_together_hold_each_row_once() -> None:
    seen: list[str] = []
    url: str | None = f"{PATH}?limit=3"
    pages = 0
    while url:
        names, url = read(url)
        seen += names
        pages += 1
    assert seen == ["7", "6", "5", "4", "3", "2", "1"]
    assert pages == 3


@pytest.mark.django_db
@pytest.mark.usefixtures("users")
def test_a_page_that_is_exactly_full_is_the_last() -> None:
    assert read(f"{PATH}?limit=7")[1] is None
    assert read(f"{PATH}?limit=6")[1] is not None


@pytest.mark.django_db
@pytest.mark.usefixtures("users")
def test_rows_that_arrive_or_go_meanwhile_shift_nothing() -> None:
    _, url = read(f"{PATH}?limit=3")
    User.objects.create(username="8")
    User.objects.get(username="5").delete()
    assert url is not None
    assert read(url)[0] == ["4", "3", "2"]


@pytest.mark.django_db
@pytest.mark.usefixtures("users")
def test_the_link_keeps_the_filters_whole() -> None:
    _, url = read(f"{PATH}?limit=1&name=a%26b%20%C3%A9&status=x")
    assert url is not None
    query = parse_qs(urlsplit(url).query)
    assert url.startswith("http://testserver/api/things?")
    assert {name: query[name] for name in ("limit", "name", "status")} == {
        "limit": ["1"],
        "name": ["a&b é"],
        "status": ["x"],
    }
    assert len(query["cursor"]) == 1
    _, after = read(url)
    assert after is not None
    assert len(parse_qs(urlsplit(after).query)["cursor"]) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("limit", ["0", "501", "-1", "1.5", "x", "%00", "9" * 30])
def test_a_limit_out_of_bounds_is_refused(limit: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(f"{PATH}?limit={limit}")
    assert caught.value.problems[0].pointer == "?limit"


@pytest.mark.django_db
@pytest.mark.usefixtures("users")
def test_a_view_may_have_bounds_of_its_own() -> None:
    assert len(read(PATH, View())[0]) == 3
    assert len(read(f"{PATH}?limit=5", View())[0]) == 5
    with pytest.raises(InvalidInput):
        read(f"{PATH}?limit=6", View())


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_cursor_is_read_as_it_was_given_out(last_id: int) -> None:
    assert decode_cursor(encode_cursor(last_id)) == last_id


@given(st.text(max_size=40))
def test_no_text_at_all_causes_another_error_than_that_it_is_no_cursor(cursor: str) -> None:
    with contextlib.suppress(InvalidInput):
        assert 0 <= decode_cursor(cursor) < 2**63


@pytest.mark.parametrize(
    "inside", ["id:", "id:-1", "id:1.5", "id:x", "pk:5", f"id:{2**63}", "id:" + "9" * 5000, "5", "id:٧"]
)
def test_a_cursor_that_was_tampered_with_is_refused(inside: str) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(base64.urlsafe_b64encode(inside.encode()).decode())
