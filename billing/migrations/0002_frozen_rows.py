"""What must never change, the database refuses to change, whatever code asks for it.

Rates are append-only. A draft's rows are free; from then on an invoice keeps everything but its status, the time it
was settled and Stripe's id, and its status makes legal moves only; its lines and billed ranges stay as they are, but
for the release of a void invoice's ranges. A credit note stays as it was decided, and all that were issued on an
invoice never exceed its total.
"""

from django.db import migrations

FUNCTIONS = """
CREATE FUNCTION billing_refuse(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', what USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE FUNCTION billing_keep_rate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM billing_refuse('a rate is never changed; add another');
    RETURN NULL;
END $$;

CREATE FUNCTION billing_keep_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    free text[] := ARRAY['status', 'settled_at', 'stripe_invoice_id'];
    lines numeric;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM billing_refuse('an invoice is never deleted; void it');
        RETURN NULL;
    END IF;
    IF OLD.status <> NEW.status AND NOT (OLD.status || '>' || NEW.status) = ANY (ARRAY[
        'draft>open', 'draft>void', 'open>paid', 'open>void', 'open>uncollectible',
        'uncollectible>paid', 'uncollectible>void'
    ]) THEN
        PERFORM billing_refuse(format('an invoice does not go from %s to %s', OLD.status, NEW.status));
    END IF;
    IF OLD.status <> 'draft' AND to_jsonb(OLD) - free <> to_jsonb(NEW) - free THEN
        PERFORM billing_refuse('a finalised invoice never changes; issue a credit note');
    END IF;
    IF OLD.status = 'draft' AND NEW.status = 'open' THEN
        SELECT coalesce(sum(amount), 0) INTO lines FROM billing_invoiceline WHERE invoice_id = NEW.id;
        IF lines <> NEW.total THEN
            PERFORM billing_refuse(format('the lines say %s and the total says %s', lines, NEW.total));
        END IF;
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION billing_keep_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND (SELECT status FROM billing_invoice WHERE id = OLD.invoice_id) <> 'draft'
       OR TG_OP <> 'DELETE' AND (SELECT status FROM billing_invoice WHERE id = NEW.invoice_id) <> 'draft' THEN
        PERFORM billing_refuse('the lines of a finalised invoice never change');
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE FUNCTION billing_status_of_line(line bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT invoice.status FROM billing_invoice AS invoice
      JOIN billing_invoiceline AS line ON line.invoice_id = invoice.id WHERE line.id = $1
$$;

CREATE FUNCTION billing_keep_range() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.released_at IS NULL AND NEW.released_at IS NOT NULL
       AND to_jsonb(OLD) - 'released_at' = to_jsonb(NEW) - 'released_at'
       AND billing_status_of_line(OLD.line_id) = 'void' THEN
        RETURN NEW;
    END IF;
    IF TG_OP <> 'INSERT' AND billing_status_of_line(OLD.line_id) <> 'draft'
       OR TG_OP <> 'DELETE' AND billing_status_of_line(NEW.line_id) <> 'draft' THEN
        PERFORM billing_refuse('the seconds behind a finalised invoice never change');
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE FUNCTION billing_keep_credit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed numeric;
    issued numeric;
BEGIN
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.status <> 'draft' THEN
        PERFORM billing_refuse('a credit note stays as it was decided');
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status = 'issued' THEN
        -- The lock makes two notes that are issued at once wait for each other.
        SELECT total INTO allowed FROM billing_invoice
         WHERE id = NEW.invoice_id AND status IN ('open', 'paid', 'uncollectible') FOR NO KEY UPDATE;
        SELECT coalesce(sum(amount), 0) INTO issued FROM billing_creditnote
         WHERE invoice_id = NEW.invoice_id AND status = 'issued' AND id <> NEW.id;
        IF allowed IS NULL OR issued + NEW.amount > allowed THEN
            PERFORM billing_refuse('credit notes never exceed a finalised invoice''s total');
        END IF;
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER rate_append_only BEFORE UPDATE OR DELETE ON billing_rate
    FOR EACH ROW EXECUTE FUNCTION billing_keep_rate();
CREATE TRIGGER invoice_frozen BEFORE UPDATE OR DELETE ON billing_invoice
    FOR EACH ROW EXECUTE FUNCTION billing_keep_invoice();
CREATE TRIGGER invoice_line_frozen BEFORE INSERT OR UPDATE OR DELETE ON billing_invoiceline
    FOR EACH ROW EXECUTE FUNCTION billing_keep_line();
CREATE TRIGGER billed_range_frozen BEFORE INSERT OR UPDATE OR DELETE ON billing_billedrange
    FOR EACH ROW EXECUTE FUNCTION billing_keep_range();
CREATE TRIGGER credit_note_frozen BEFORE INSERT OR UPDATE OR DELETE ON billing_creditnote
    FOR EACH ROW EXECUTE FUNCTION billing_keep_credit();
"""

NO_FUNCTIONS = """
DROP TRIGGER credit_note_frozen ON billing_creditnote;
DROP TRIGGER billed_range_frozen ON billing_billedrange;
DROP TRIGGER invoice_line_frozen ON billing_invoiceline;
DROP TRIGGER invoice_frozen ON billing_invoice;
DROP TRIGGER rate_append_only ON billing_rate;
DROP FUNCTION billing_keep_credit();
DROP FUNCTION billing_keep_range();
DROP FUNCTION billing_status_of_line(bigint);
DROP FUNCTION billing_keep_line();
DROP FUNCTION billing_keep_invoice();
DROP FUNCTION billing_keep_rate();
DROP FUNCTION billing_refuse(text);
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0001_initial")]

    operations = [migrations.RunSQL(FUNCTIONS, NO_FUNCTIONS)]
