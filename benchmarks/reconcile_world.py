"""One simulated world: a few tenants for a few months, run through the real services and told to the oracle.

Nothing here computes an amount: what happens is drawn from a seed, done by the services of billing, and entered into
the oracle's books; what both make of it is compared. A world has GPU models of its own, so that its list prices are
nobody else's.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from django.db.backends.postgresql.psycopg_any import DateTimeTZRange

from benchmarks import oracle
from benchmarks.reconcile_calls import Astray, Calls
from benchmarks.reconcile_compare import instant, micros
from billing import services
from billing.models import CreditNote, Invoice
from billing.queries import rates_in_force
from clusters.models import GPU, GPUStatePeriod, Node
from jobs.models import Allocation, Job
from tenants.models import Tenant
from tenants.services import update_tenant

# Months with a leap day, with the days on which clocks change, and with a year's end.
FIRST_MONTHS = [(2024, 1), (2024, 2), (2025, 2), (2025, 3), (2025, 9), (2025, 10), (2025, 12), (2026, 3), (2028, 2)]
ZONES = ["UTC", "UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]
PLANS = ["starter", "pro", "growth", "enterprise"]
GPUS_A_TENANT = 3


def after(month: datetime, count: int) -> datetime:
    """The first of the month so many months later, at the same place's midnight."""
    index = month.year * 12 + month.month - 1 + count
    return month.replace(year=index // 12, month=index % 12 + 1, day=1)


class World(Calls):
    """``run`` lives through it."""

    def __init__(self, seed: int, number: int, tenants: int, months: int) -> None:
        random = Random(f"{seed}:{number}")
        self.begin = datetime(*random.choice(FIRST_MONTHS), 1, tzinfo=UTC)
        super().__init__(random, number, self.begin)
        self.months, self.end = months, after(self.begin, months)
        self.models = [f"H100-{number}", f"L4-{number}"]
        self.zones: dict[int, ZoneInfo] = {}
        self.running: dict[int, tuple[int, list[int]]] = {}  # job: tenant, holds
        self.model_of: dict[int, str] = {}
        self.gpus: dict[int, list[int]] = {}
        self.quiet_until: dict[int, int] = {}  # GPU: the end of its last fault
        self._found(tenants)

    def _found(self, count: int) -> None:
        """Tenants, each with a node of GPUs of both models; most list prices to begin with."""
        node = Node.objects.filter(hostname="node-0").get()
        for place in range(count):
            currency = self.random.choice(list(oracle.UNITS))
            plan = self.random.choice(PLANS)
            tenant = Tenant.objects.create(
                name=f"w{self.number}-{place}", gpu_quota=99, plan_tier=plan, currency=currency, created_at=self.begin
            )
            self.books.currency[tenant.pk], self.books.plan[tenant.pk] = currency, plan
            self.zones[tenant.pk] = ZoneInfo(self.random.choice(ZONES))
            gpus = GPU.objects.bulk_create(
                GPU(
                    node=node,
                    gpu_index=0,
                    model=model,
                    state="available",
                    registered_at=self.begin,
                    retired_at=self.end,
                )
                for model in self.random.choices(self.models, k=GPUS_A_TENANT)
            )
            self.gpus[tenant.pk] = [gpu.pk for gpu in gpus]
            self.model_of |= {gpu.pk: gpu.model for gpu in gpus}
        for model in self.models:
            for currency in sorted(set(self.books.currency.values())):
                if self.random.random() < 0.2:
                    continue  # Sold without a price, until somebody adds one.
                self.add_rate(model, currency, None, "", self.begin - timedelta(days=9))

    # What happens.

    def run(self) -> None:
        """Live through the months, then compare everything."""
        try:
            for at in self._moments():
                self.now = at
                self.random.choices(*self._possibilities())[0]()
            self.now = self.end + timedelta(hours=1)
            self.compare_all()
        except Astray as lost:
            self.differ(str(lost))
        for rule in self.books.rules:  # A plan's rules would go on in the worlds to come.
            services.switch_service_level(service_level_id=rule.id, enabled=False, actor="simulation")

    def _moments(self) -> list[datetime]:
        """Instants at least nine seconds apart: what an invoice of a moment ago left is not worth another one."""
        slots = (self.end - self.begin) // timedelta(seconds=10)
        chosen = sorted(self.random.sample(range(1, slots), 13 * self.months * len(self.gpus)))
        return [
            self.begin + timedelta(seconds=10 * slot, microseconds=self.random.choice([0, 0, 1, 999_999]))
            for slot in chosen
        ]

    def _possibilities(self) -> tuple[list[Callable[[], None]], list[float]]:
        return (
            [
                self.work,
                self.price,
                self.bill,
                self.handle,
                self.note,
                self.decide,
                self.fail,
                self.promise,
                self.sweep,
                self.change_plan,
            ],
            [26, 6, 14, 20, 8, 16, 6, 1.5, 4, 1],
        )

    def work(self) -> None:
        """A job ends, or one starts on all it can get of a tenant's free GPUs."""
        tenant = self.random.choice(list(self.gpus))
        mine = [job for job, (owner, _) in self.running.items() if owner == tenant]
        if mine and self.random.random() < 0.5:
            self._stop(self.random.choice(mine))
            return
        busy = {self.books.holds[hold].gpu for _, holds in self.running.values() for hold in holds}
        free = [gpu for gpu in self.gpus[tenant] if gpu not in busy]
        if free:
            self._start(tenant, self.random.sample(free, self.random.randint(1, len(free))))

    def _start(self, tenant: int, gpus: list[int]) -> None:
        cluster = Node.objects.get(hostname="node-0").cluster_id
        job = Job.objects.create(
            cluster_id=cluster,
            tenant_id=tenant,
            name="train",
            status="running",
            submitted_at=self.now,
            started_at=self.now,
        )
        book = rates_in_force([(tenant, self.model_of[gpu]) for gpu in gpus], now=self.now)
        for gpu in gpus:
            rate, expected = book.get((tenant, self.model_of[gpu])), self._rate_of(tenant, self.model_of[gpu])
            self.same(f"rate of {self.model_of[gpu]}", rate and rate.rate_id, expected and expected.id)
            locked = {} if rate is None else _locked(rate.rate_id, rate.price_per_gpu_hour, rate.currency)
            during = DateTimeTZRange(self.now, None)
            row = Allocation.objects.create(job=job, gpu_id=gpu, tenant_id=tenant, during=during, **locked)
            self.books.holds[row.pk] = oracle.Hold(
                row.pk, tenant, gpu, self.model_of[gpu], micros(self.now), None, expected
            )
            self.running.setdefault(job.pk, (tenant, []))[1].append(row.pk)

    def _rate_of(self, tenant: int, model: str) -> oracle.Rate | None:
        return self.books.in_force(tenant, model, micros(self.now))

    def _stop(self, job: int) -> None:
        for hold in self.running.pop(job)[1]:
            Allocation.objects.filter(pk=hold).update(during=DateTimeTZRange(self._start_of(hold), self.now))
            self.books.holds[hold].end = micros(self.now)
        Job.objects.filter(pk=job).update(status="completed", ended_at=self.now)

    def _start_of(self, hold: int) -> datetime:
        return instant(self.books.holds[hold].start)

    def price(self) -> None:
        """A new rate: for all, a plan or a tenant; from now on, from a day to come, or from a day that is gone."""
        tenant = self.random.choice(list(self.gpus))
        kind = self.random.choice(["list", "plan", "tenant"])
        shift = self.random.choice([0, 0, 1, -1, -1, -1]) * self.random.random() * 40
        self.add_rate(
            self.random.choice(self.models),
            self.books.currency[tenant],
            tenant if kind == "tenant" else None,
            self.books.plan[tenant] if kind == "plan" else "",
            self.now + timedelta(days=shift),
        )

    def add_rate(self, model: str, currency: str, tenant: int | None, plan: str, valid_from: datetime) -> None:
        """A price with a random number of decimals, minimum and increment."""
        price = Decimal(self.random.randint(0, 9_000_000)).scaleb(-self.random.choice([2, 3, 6]))
        price *= 100 if oracle.UNITS[currency] == 1 else 1
        minimum, step = self.random.choice([0, 0, 60, 90, 3600]), self.random.choice([1, 1, 7, 60, 3600])
        rate = self.do(
            lambda: services.add_rate(
                gpu_model=model,
                price_per_gpu_hour=price,
                currency=currency,
                tenant_id=tenant,
                plan_tier=plan,
                minimum_seconds=minimum,
                increment_seconds=step,
                valid_from=valid_from,
                recorded_by="simulation",
                now=self.now,
            )
        )
        self.counts["rates"] += 1
        times = micros(valid_from), micros(self.now)
        self.books.add_rate(oracle.Rate(rate.pk, model, tenant, plan, currency, Fraction(price), minimum, step, *times))

    def bill(self) -> None:
        """A draft of some window, often of all that is there."""
        tenant = self.random.choice(list(self.gpus))
        start, end = self._window(self.zones[tenant])
        spans = self.books.unbilled(tenant, micros(start), min(micros(end), micros(self.now)))
        self._bill(tenant, start, end, spans)

    def _bill(self, tenant: int, start: datetime, end: datetime, spans: list[oracle.Span]) -> None:
        made = self.do(
            lambda: services.create_invoice(
                tenant_id=tenant, start=start, end=end, created_by="simulation", now=self.now
            ),
            refused=not spans,
        )
        if made is not None:
            self.counts["invoices"] += 1
            self.compare_lines(made, self.books.bill(made.pk, tenant, spans))

    def _window(self, zone: ZoneInfo) -> tuple[datetime, datetime]:
        kind = self.random.choice(["month", "day", "any", "any", "all", "all"])
        if kind == "all":
            return self.begin, self.now + timedelta(days=1)
        local = self.now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
        if kind == "month":
            first = local.replace(day=1)
            return after(first, -1).astimezone(UTC), first.astimezone(UTC)
        if kind == "day":
            day = local - timedelta(days=self.random.randint(0, 40))
            return day.astimezone(UTC), (day + timedelta(days=1)).astimezone(UTC)
        bounds = sorted(self.random.randint(micros(self.begin), micros(self.now) + oracle.DAY) for _ in range(2))
        return instant(bounds[0]), instant(bounds[1])

    def handle(self) -> None:
        """An invoice goes on: finalised, paid, given up, or void."""
        invoice = self._some([one for one in self.books.invoices.values() if one.status in ("draft", "open")])
        if invoice is None:
            return
        to = self.random.choices(["open", "paid", "uncollectible", "void"], [8, 3, 1, 2])[0]
        if invoice.status == "draft":
            to = self.random.choices(["open", "void"], [8, 1])[0]
        elif to == "open":
            return
        refused = to == "void" and bool(invoice.some("issued"))
        fields = {"invoice_id": invoice.id, "to": to, "actor": "simulation", "now": self.now}
        if self.do(lambda: services.move_invoice(**fields), refused=refused) is not None:
            self.books.move(invoice, to)
            self.compare_notes(invoice)

    def note(self) -> None:
        """A credit of an amount by hand, or of a window."""
        invoice = self._some([one for one in self.books.invoices.values() if one.status in oracle.FINAL and one.total])
        if invoice is None:
            return
        fields = {"invoice_id": invoice.id, "reason": "r", "created_by": "simulation", "now": self.now}
        if self.random.random() < 0.4:
            units = self.random.randint(1, invoice.total)
            amount = Decimal(units) / oracle.UNITS[invoice.currency]
            made = self.do(lambda: services.draft_credit_note(amount=amount, **fields), refused=units > invoice.left)
            if made is not None:
                invoice.notes.append(oracle.Note("manual", made.pk, "credit", units))
            return
        low, high = min(span[1] for span in invoice.spans), max(span[2] for span in invoice.spans)
        start, end = sorted(self.random.randint(low, high) for _ in range(2))
        expected = self.books.credit_window(invoice, start, end)
        self.do(
            lambda: services.credit_window(start=instant(start), end=instant(end), **fields), refused=expected is None
        )
        self.compare_notes(invoice)

    def decide(self) -> None:
        """A draft is issued or declined, or a debit note is paid."""
        pairs = [(one, note) for one in self.books.invoices.values() for note in one.some("draft")]
        debits = [
            (one, note)
            for one in self.books.invoices.values()
            for note in one.some("issued")
            if note.kind == "debit" and not note.settled
        ]
        chosen = self._some(pairs * 3 + debits)
        if chosen is None:
            return
        invoice, note = chosen
        fields: dict[str, Any] = {"credit_note_id": self._row(invoice, note).pk, "actor": "simulation", "now": self.now}
        if note.status == "issued":
            self.do(lambda: services.settle_debit_note(**fields))
            note.settled = True
        elif self.random.random() < 0.25:
            self.do(lambda: services.decline_credit_note(reason="no", **fields))
            self.books.decide(invoice, note, "declined")
        else:
            refused = note.kind == "credit" and note.amount > invoice.left
            if self.do(lambda: services.issue_credit_note(**fields), refused=refused) is not None:
                self.books.decide(invoice, note, "issued")
        self.compare_notes(invoice)

    def fail(self) -> None:
        """A GPU was in a bad state for some time up to now, or still is."""
        gpu = self.random.choice([gpu for gpus in self.gpus.values() for gpu in gpus])
        free_from, now = self.quiet_until.get(gpu, micros(self.begin)), micros(self.now)
        if free_from >= now - oracle.SECOND:
            return
        start = max(free_from, now - self.random.randint(oracle.SECOND, oracle.DAY))
        end = None if self.random.random() < 0.05 else now
        self.quiet_until[gpu] = now if end else 1 << 62
        state = self.random.choice(["unhealthy", "offline", "maintenance"])
        during = DateTimeTZRange(instant(start), instant(end) if end else None)
        row = GPUStatePeriod.objects.create(gpu_id=gpu, state=state, during=during)
        self.books.faults.append(oracle.Fault(row.pk, gpu, state, start, end))

    def promise(self) -> None:
        """A service-level rule for all, a plan or a tenant."""
        tenant = self.random.choice(list(self.gpus))
        kind = self.random.choice(["plan", "tenant"])
        fields: dict[str, Any] = {
            "tenant_id": tenant if kind == "tenant" else None,
            "plan_tier": self.books.plan[tenant] if kind == "plan" else "",
            "states": self.random.sample(["unhealthy", "offline", "maintenance"], self.random.randint(1, 3)),
            "longer_than_seconds": self.random.choice([0, 300, 7200]),
            "credit_percent": self.random.choice([10, 33, 50, 100]),
            "basis": self.random.choice(["overlap", "overlap", "allocation", "day"]),
            "effective_from": self.now - timedelta(days=self.random.randint(0, 30)),
        }
        rule = self.do(
            lambda: services.add_service_level(name="promise", created_by="simulation", now=self.now, **fields)
        )
        scope = fields["tenant_id"], fields["plan_tier"], frozenset(fields["states"])
        terms = fields["longer_than_seconds"], fields["credit_percent"], fields["basis"]
        self.books.rules.append(oracle.Rule(rule.pk, *scope, *terms, micros(fields["effective_from"])))

    def sweep(self) -> None:
        """The hourly run of the rules. A plan's find invoices of earlier worlds, too, which are compared by then."""
        self.do(lambda: services.raise_service_level_credits(now=self.now))
        self.books.raise_credits(micros(self.now))

    def change_plan(self) -> None:
        """A tenant changes its plan, which reprices nothing that began before."""
        tenant, plan = self.random.choice(list(self.gpus)), self.random.choice(PLANS)
        self.do(lambda: update_tenant(tenant_id=tenant, changes={"plan_tier": plan}))
        self.books.plan[tenant] = plan

    # How it is done and compared.

    def _some(self, rows: list[Any]) -> Any:
        return self.random.choice(rows) if rows else None

    def _row(self, invoice: oracle.Invoice, note: oracle.Note) -> CreditNote:
        """The database's row of a note that the oracle knows."""
        rows = CreditNote.objects.filter(invoice_id=invoice.id, status=note.status, kind=note.kind)
        if note.origin == "manual":
            rows = rows.filter(pk=note.tag)
        elif note.origin == "window":
            start, end = (instant(bound).isoformat() for bound in note.tag)
            rows = rows.filter(origin="window", evidence__from=start, evidence__to=end)
        elif note.origin == "rule":
            rows = rows.filter(service_level_id=note.tag[0], fault_id=note.tag[1])
        else:
            rows = rows.filter(origin="rate", rate_ids=list(note.rates), settled_at__isnull=not note.settled)
        row = rows.order_by("pk").first()
        if row is None:
            raise Astray(f"invoice {invoice.id} has no {note}")
        return row

    def compare_all(self) -> None:
        """Everything that is in the database and in the books, once more."""
        for invoice in self.books.invoices.values():
            row = Invoice.objects.get(pk=invoice.id)
            self.compare_lines(row, invoice)
            self.compare_notes(invoice)
            self.compare_balance(row, invoice)
        self.compare_unbilled()

    def compare_unbilled(self) -> None:
        """What is left, tenant by tenant and month by month, by one more invoice of it."""
        for tenant in self.gpus:
            for number in range(self.months):
                start, end = after(self.begin, number), after(self.begin, number + 1)
                self._bill(tenant, start, end, self.books.unbilled(tenant, micros(start), micros(end)))


def _locked(rate_id: int, price: Decimal, currency: str) -> dict[str, Any]:
    return {"rate_id": rate_id, "price_per_gpu_hour": price, "currency": currency}
