from gpufleet.common.api import ApiRouter
from tenants.views import TenantViewSet

router = ApiRouter()
router.register("tenants", TenantViewSet, basename="tenant")

urlpatterns = router.urls
