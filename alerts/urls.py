from alerts.views import ChannelViewSet, EventViewSet, RuleViewSet, WindowViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("alerts/events", EventViewSet, basename="alert-event")
router.register("alerts/channels", ChannelViewSet, basename="alert-channel")
router.register("alerts/maintenance", WindowViewSet, basename="alert-maintenance")
router.register("alerts", RuleViewSet, basename="alert-rule")

urlpatterns = router.urls
