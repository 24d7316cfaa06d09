from alerts.views import EventViewSet, RuleViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("alerts/events", EventViewSet, basename="alert-event")
router.register("alerts", RuleViewSet, basename="alert-rule")

urlpatterns = router.urls
