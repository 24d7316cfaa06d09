from apikeys.views import KeyViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("keys", KeyViewSet, basename="key")

urlpatterns = router.urls
