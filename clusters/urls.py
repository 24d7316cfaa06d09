from clusters.views import ClusterViewSet, GpuViewSet, MetricViewSet, NodeViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("clusters/nodes", NodeViewSet, basename="node")
router.register("clusters/gpus", GpuViewSet, basename="gpu")
router.register("clusters/metrics", MetricViewSet, basename="metric")
router.register("clusters", ClusterViewSet, basename="cluster")

urlpatterns = router.urls
