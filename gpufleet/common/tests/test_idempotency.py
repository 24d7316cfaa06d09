import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from rest_framework.response import Response

from gpufleet.common.errors import Conflict, InvalidInput
from gpufleet.common.idempotency import IdempotencyKeyReused, expire_responses, idempotent
from gpufleet.common.models import IdempotentResponse
from gpufleet.common.tasks import expire_idempotent_responses
from gpufleet.common.tests.factories import Someone, make_request

KEY = "Idempotency-Key"


@idempotent(secret_fields=("secret",))
def create(view: Any, request: Any) -> Response:
    """Make a user; a body with ``fail`` fails after the row was written."""
    user = User.objects.create(username=f"user {User.objects.count()}")
    if request.data.get("fail"):
        raise Conflict("no")
    return Response({"id": user.pk, "secret": "once", "at": timezone.now()}, status=201)


def send(body: Any = None, key: str | None = "k", sender: Someone | None = None, path: str = "/api/things") -> Response:
    headers = {} if key is None else {KEY: key}
    return create(None, make_request("post", path, body or {}, sender or Someone(), **headers))


@pytest.mark.django_db
def test_the_first_answer_comes_again_and_nothing_happens_twice() -> None:
    first, again = send(), send()
    assert User.objects.count() == 1
    assert first.status_code == again.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.data["id"] == first.data["id"]


@pytest.mark.django_db
def test_what_is_shown_once_is_neither_stored_nor_shown_again() -> None:
    assert send().data["secret"] == "once"
    assert send().data["secret"] is None
    body: Any = IdempotentResponse.objects.get().body
    assert body["secret"] is None


@pytest.mark.django_db
def test_without_the_header_each_request_is_its_own() -> None:
    send(key=None)
    send(key=None)
    assert User.objects.count() == 2
    assert not IdempotentResponse.objects.exists()


@pytest.mark.django_db
def test_another_body_path_or_query_under_the_same_key_is_refused() -> None:
    send({"a": 1})
    for body, path in (({"a": 2}, "/api/things"), ({"a": 1}, "/api/others"), ({"a": 1}, "/api/things?x=1")):
        with pytest.raises(IdempotencyKeyReused):
            send(body, path=path)
    assert User.objects.count() == 1


@pytest.mark.django_db
def test_the_same_body_in_other_words_is_the_same() -> None:
    request = {"sender": Someone(), KEY: "k"}
    create(None, make_request("post", body=b'{"a": 1, "b": [2]}', **request))  # type: ignore[arg-type]
    again = create(None, make_request("post", body=b'{"b":[2],"a":1}', **request))  # type: ignore[arg-type]
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.django_db
def test_two_senders_may_use_one_key() -> None:
    send(sender=Someone("key:1", 1))
    send(sender=Someone("key:2", 2))
    assert User.objects.count() == 2


@pytest.mark.django_db
def test_a_handler_that_fails_leaves_nothing_and_may_be_tried_again() -> None:
    with pytest.raises(Conflict):
        send({"fail": True})
    assert not User.objects.exists()
    assert not IdempotentResponse.objects.exists()
    assert send().status_code == 201


@pytest.mark.django_db
@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "é", "a\tb", "\x7f"])
def test_a_key_that_no_client_would_make_is_refused(key: str) -> None:
    with pytest.raises(InvalidInput):
        send(key=key)
    assert not User.objects.exists()


@pytest.mark.django_db
def test_an_answer_is_forgotten_after_24_hours_by_the_next_request_or_by_the_hourly_task() -> None:
    send()
    IdempotentResponse.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    assert "Idempotent-Replayed" not in send().headers
    assert User.objects.count() == 2

    now = timezone.now()
    assert expire_responses(now=now) == 0
    IdempotentResponse.objects.update(created_at=now - timedelta(hours=23, minutes=59))
    assert expire_responses(now=now) == 0
    assert expire_responses(now=now + timedelta(minutes=2)) == 1


@pytest.mark.django_db
def test_the_hourly_task_expires() -> None:
    send()
    IdempotentResponse.objects.update(created_at=timezone.now() - timedelta(hours=25))
    expire_idempotent_responses()
    assert not IdempotentResponse.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_many_duplicates_at_once_one_has_the_effect_and_all_get_its_answer() -> None:
    start = threading.Barrier(8)

    def duplicate() -> Response:
        try:
            start.wait()
            return send()
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = [future.result() for future in [pool.submit(duplicate) for _ in range(8)]]
    assert User.objects.count() == 1
    assert len({answer.data["id"] for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
