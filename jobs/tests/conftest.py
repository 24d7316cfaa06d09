"""Hardware that many tests of jobs begin with."""

import pytest

from clusters.models import Node
from clusters.tests.factories import make_cluster, make_gpu, make_node


@pytest.fixture
def node() -> Node:
    """A node with four H100s, alone in its cluster."""
    node = make_node(make_cluster())
    for _ in range(4):
        make_gpu(node)
    return node
