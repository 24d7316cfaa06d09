from gpufleet.common.api import ApiRouter
from jobs.views import JobViewSet

router = ApiRouter()
router.register("jobs", JobViewSet, basename="job")

urlpatterns = router.urls
