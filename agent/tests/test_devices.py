"""Which slot a GPU is in, whatever the driver calls it today."""

from gpufleet_agent.devices import Device, assign_slots

BEFORE = {"a": (0, ""), "b": (1, ""), "c": (2, "")}
WITH_ADDRESSES = {"a": (0, "07"), "b": (1, "0F"), "c": (2, "47")}


def device(index: int, uuid: str, address: str = "") -> Device:
    return Device(index, uuid, "H100", None, address)


def test_a_loss_moves_nobody() -> None:
    assert assign_slots([device(0, "a"), device(1, "c")], BEFORE) == {"a": 0, "c": 2}


def test_another_gpu_at_the_same_address_takes_the_slot() -> None:
    found = assign_slots([device(0, "a", "07"), device(1, "x", "0F"), device(2, "c", "47")], WITH_ADDRESSES)
    assert found == {"a": 0, "x": 1, "c": 2}


def test_a_new_gpu_takes_its_own_number_or_one_that_is_free() -> None:
    assert assign_slots([device(0, "a"), device(1, "b")], {}) == {"a": 0, "b": 1}
    assert assign_slots([device(0, "new"), device(1, "a"), device(2, "b"), device(3, "c")], BEFORE)["new"] == 3
