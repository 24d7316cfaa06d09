from gpufleet.common.api import ApiRouter
from jobs.assignment_views import AssignmentViewSet
from jobs.views import JobViewSet

router = ApiRouter()
router.register("clusters/nodes", AssignmentViewSet, basename="assignment")
router.register("jobs", JobViewSet, basename="job")

urlpatterns = router.urls
