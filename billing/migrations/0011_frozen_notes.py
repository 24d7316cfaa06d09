"""What the database refuses about notes, now that they go both ways and name the seconds that they give back.

The credit notes that were issued on an invoice never exceed its total and its issued debit notes. A decided note stays
as it was decided; only an issued debit note is settled, once. Credited seconds are written for drafts alone, and are let
go of when their note is declined or withdrawn.
"""

from importlib import import_module

from django.db import migrations

before = import_module("billing.migrations.0002_frozen_rows").FUNCTIONS
start = before.index("CREATE FUNCTION billing_keep_credit()")
KEEP_CREDIT_BEFORE = before[start : before.index("CREATE TRIGGER", start)].replace("CREATE", "CREATE OR REPLACE", 1)

KEEP_NOTES = """
CREATE OR REPLACE FUNCTION billing_keep_credit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    allowed numeric;
    credited numeric;
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.kind = 'debit' AND OLD.status = 'issued' AND OLD.settled_at IS NULL
       AND to_jsonb(OLD) - 'settled_at' = to_jsonb(NEW) - 'settled_at' THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND OLD.status <> 'draft' THEN
        PERFORM billing_refuse('a credit note stays as it was decided');
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.status = 'issued' THEN
        -- The lock makes two notes that are issued at once wait for each other.
        SELECT total INTO allowed FROM billing_invoice
         WHERE id = NEW.invoice_id AND status IN ('open', 'paid', 'uncollectible') FOR NO KEY UPDATE;
        SELECT coalesce(sum(CASE kind WHEN 'debit' THEN -amount ELSE amount END), 0) INTO credited
          FROM billing_creditnote
         WHERE invoice_id = NEW.invoice_id AND status = 'issued' AND id <> NEW.id;
        IF allowed IS NULL OR NEW.kind = 'credit' AND credited + NEW.amount > allowed THEN
            PERFORM billing_refuse('credit notes never exceed a finalised invoice''s total');
        END IF;
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE FUNCTION billing_keep_credited_range() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    status text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM billing_refuse('credited seconds are never deleted');
    END IF;
    SELECT note.status INTO status FROM billing_creditnote AS note WHERE note.id = NEW.note_id;
    IF TG_OP = 'INSERT' AND status <> 'draft' THEN
        PERFORM billing_refuse('seconds are credited by a draft');
    END IF;
    IF TG_OP = 'UPDATE' AND (OLD.released_at IS NOT NULL OR status NOT IN ('declined', 'withdrawn')
       OR to_jsonb(OLD) - 'released_at' <> to_jsonb(NEW) - 'released_at') THEN
        PERFORM billing_refuse('credited seconds change only when their note lets go of them');
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;

CREATE TRIGGER credited_range_frozen BEFORE INSERT OR UPDATE OR DELETE ON billing_creditedrange
    FOR EACH ROW EXECUTE FUNCTION billing_keep_credited_range();
"""
KEEP_NOTES_NO_MORE = f"""
DROP TRIGGER credited_range_frozen ON billing_creditedrange;
DROP FUNCTION billing_keep_credited_range();
{KEEP_CREDIT_BEFORE}
"""


class Migration(migrations.Migration):
    dependencies = [("billing", "0010_service_levels_and_debit_notes")]

    operations = [migrations.RunSQL(KEEP_NOTES, KEEP_NOTES_NO_MORE)]
