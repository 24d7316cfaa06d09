from billing.credit_views import CreditNoteViewSet, ServiceLevelViewSet
from billing.views import InvoiceViewSet, RateViewSet, SummaryViewSet, UsageViewSet
from billing.webhooks import StripeWebhookViewSet
from gpufleet.common.api import ApiRouter

router = ApiRouter()
router.register("billing/rates", RateViewSet, basename="rate")
router.register("billing/invoices", InvoiceViewSet, basename="invoice")
router.register("billing/credit-notes", CreditNoteViewSet, basename="credit-note")
router.register("billing/service-levels", ServiceLevelViewSet, basename="service-level")
router.register("billing/stripe/webhook", StripeWebhookViewSet, basename="stripe-webhook")
router.register("billing", SummaryViewSet, basename="billing")
router.register("tenants", UsageViewSet, basename="usage")

urlpatterns = router.urls
