from collections import Counter

from dashboard.demo.catalog import CLUSTERS, CUSTOMERS, MODELS
from jobs.placement import takes
from tenants.models import PlanTier

NODES = [node for cluster in CLUSTERS for node in cluster.nodes()]
GPUS = Counter(node.model.name for node in NODES for _ in node.gpus())


def test_two_clusters_32_nodes_256_gpus_of_four_models() -> None:
    assert (len(CLUSTERS), len(NODES), GPUS.total(), len(GPUS)) == (2, 32, 256, 4)
    assert set(GPUS) == {model.name for model in MODELS}


def test_names_addresses_and_uuids_are_unique_and_the_same_in_every_run() -> None:
    uuids = [gpu["uuid"] for node in NODES for gpu in node.gpus()]
    assert len(set(uuids)) == 256
    assert NODES[0].gpu_uuid(0) == "GPU-c9a50b1b-031f-56bd-a519-6793fef73e7d"
    assert len({node.hostname for node in NODES}) == len({node.ip_address for node in NODES}) == 32


def test_five_customers_on_the_four_plans_want_more_than_there_is() -> None:
    assert len(CUSTOMERS) == 5
    assert {customer.plan_tier for customer in CUSTOMERS} == set(PlanTier.values)
    assert sum(customer.gpu_quota for customer in CUSTOMERS) > 256


def test_every_model_is_wanted_by_more_customers_than_it_has_room_for() -> None:
    for model in MODELS:
        able = [one for one in CUSTOMERS if any(takes(work.gpu_type, model.name) for work in one.works)]
        assert len(able) > 1
        assert sum(one.gpu_quota for one in able) > GPUS[model.name]


def test_no_customer_asks_for_more_than_it_may_ever_hold() -> None:
    for customer in CUSTOMERS:
        assert max(size for work in customer.works for size in work.sizes) <= customer.gpu_quota
