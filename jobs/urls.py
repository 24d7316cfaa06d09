from gpufleet.common.api import ApiRouter
from jobs.assignment_views import AssignmentViewSet
from jobs.views import JobViewSet
from jobs.whatif_views import SimulationViewSet

router = ApiRouter()
router.register("jobs/simulate", SimulationViewSet, basename="simulation")
router.register("clusters/nodes", AssignmentViewSet, basename="assignment")
router.register("jobs", JobViewSet, basename="job")

urlpatterns = router.urls
