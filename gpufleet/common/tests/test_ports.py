from collections.abc import Callable

import pytest

from gpufleet.common.ports import Port


def twice(number: int) -> int:
    return 2 * number


def thrice(number: int) -> int:
    return 3 * number


@pytest.fixture
def port() -> Port[Callable[[int], int]]:
    return Port("test.port")


def test_the_answer_is_asked(port: Port[Callable[[int], int]]) -> None:
    port.answer_with(twice)
    port.answer_with(twice)
    assert port.ask(4) == 8


def test_a_port_that_nobody_answers_names_itself(port: Port[Callable[[int], int]]) -> None:
    with pytest.raises(RuntimeError, match=r"test\.port"):
        port.ask(4)


def test_two_answers_are_a_mistake_in_the_wiring(port: Port[Callable[[int], int]]) -> None:
    port.answer_with(twice)
    with pytest.raises(RuntimeError, match="answered twice"):
        port.answer_with(thrice)


def test_a_stand_in_answers_for_a_while(port: Port[Callable[[int], int]]) -> None:
    port.answer_with(twice)
    with port.stand_in(thrice):
        assert port.ask(4) == 12
    assert port.ask(4) == 8
