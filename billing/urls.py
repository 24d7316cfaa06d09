from billing.views import RateViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("billing/rates", RateViewSet, basename="rate")

urlpatterns = router.urls
