from dashboard.views import DashboardViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("dashboard", DashboardViewSet, basename="dashboard")

urlpatterns = router.urls
