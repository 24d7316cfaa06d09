from billing.views import InvoiceViewSet, RateViewSet, SummaryViewSet, UsageViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("billing/rates", RateViewSet, basename="rate")
router.register("billing/invoices", InvoiceViewSet, basename="invoice")
router.register("billing", SummaryViewSet, basename="billing")
router.register("tenants", UsageViewSet, basename="usage")

urlpatterns = router.urls
