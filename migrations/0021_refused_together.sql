-- Groups that were refused together are probed together: a short fault of many groups ends for all when it ends for one.

ALTER TABLE receiptd.watched_groups ADD refused_at timestamptz;

COMMENT ON COLUMN receiptd.watched_groups.refused_at IS 'When a quarantined group was last refused; null while it is not quarantined. When one is answered again, those that were refused with the same code within a minute of it are probed at once.';

CREATE OR REPLACE FUNCTION receiptd.note_reschedule() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.reschedule := true;
    IF NEW.state <> 'quarantined' THEN
        NEW.state_code := NULL;
        NEW.state_reason := CASE WHEN NEW.state_reason IS DISTINCT FROM OLD.state_reason THEN NEW.state_reason END;
        NEW.probe_at := NULL;
        NEW.refused_at := NULL;
    END IF;
    RETURN NEW;
END
$$;
