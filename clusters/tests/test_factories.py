from typing import Any

import pytest

from clusters.models import GPUStatePeriod
from clusters.tests.factories import NOW, make_cluster, make_gpu, make_node


@pytest.mark.django_db
def test_a_gpu_is_made_with_its_open_period() -> None:
    gpu = make_gpu(make_node(make_cluster("north"), "n1"))
    period = GPUStatePeriod.objects.get(gpu=gpu)
    assert (gpu.state, period.state, period.during.lower, period.during.upper) == ("available", "available", NOW, None)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("node", "gpu", "state"),
    [
        ({"silent": True}, {}, "offline"),
        ({"intent": "draining"}, {}, "draining"),
        ({}, {"health": "unhealthy"}, "unhealthy"),
    ],
)
def test_the_state_of_a_made_gpu_follows_its_circumstances(
    node: dict[str, Any], gpu: dict[str, Any], state: str
) -> None:
    assert make_gpu(make_node(**node), **gpu).state == state
