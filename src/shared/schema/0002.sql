-- Orders that are given at a gate, and not from the office.

-- NULL for an order from the office.
ALTER TABLE weir.orders ADD COLUMN gate text REFERENCES weir.gates;

-- An order to every gate, by a gate whose operator gave it there. A gate may stop whatever it likes. It may let go on only
-- what nobody but itself has stopped since it last went on: a gate that was taken over undoes no order of others.
-- Answers NULL and the order's number; or 'fenced'; 'revoked' or 'elsewhere' when it may not; 'none' when nothing has
-- stopped the account everywhere.
CREATE FUNCTION weir.order_from(the_gate text, the_epoch bigint, the_what text, the_account text, the_by text)
RETURNS TABLE (refused text, number bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint;
    thawed bigint;
BEGIN
    SELECT c.version INTO newest FROM weir.counter c FOR UPDATE;
    PERFORM 1 FROM weir.gates g WHERE g.gate = the_gate AND g.epoch = the_epoch AND g.retired_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'fenced'::text, 0::bigint;
        RETURN;
    END IF;
    IF the_what = 'thaw' THEN
        SELECT coalesce(max(o.version), 0) INTO thawed FROM weir.orders o
        WHERE o.account = the_account AND o.what = 'thaw';
        IF EXISTS (SELECT 1 FROM weir.orders o WHERE o.account = the_account AND o.what = 'revoke') THEN
            RETURN QUERY SELECT 'revoked'::text, 0::bigint;
            RETURN;
        ELSIF EXISTS (
            SELECT 1 FROM weir.orders o
            WHERE o.account = the_account AND o.version > thawed AND o.gate IS DISTINCT FROM the_gate
        ) THEN
            RETURN QUERY SELECT 'elsewhere'::text, 0::bigint;
            RETURN;
        ELSIF NOT EXISTS (SELECT 1 FROM weir.orders o WHERE o.account = the_account AND o.version > thawed) THEN
            RETURN QUERY SELECT 'none'::text, 0::bigint;
            RETURN;
        END IF;
    END IF;
    UPDATE weir.counter c SET version = newest + 1;
    INSERT INTO weir.orders (version, what, account, made_by, gate)
    VALUES (newest + 1, the_what, the_account, the_by, the_gate);
    RETURN QUERY SELECT NULL::text, newest + 1;
END $$;

REVOKE ALL ON FUNCTION weir.order_from(text, bigint, text, text, text) FROM PUBLIC;
