-- One budget for several gates. Everything happens in functions, so that a gate's role needs no right on a table and
-- can neither delete nor alter anything. Amounts are whole numbers; times are the database's own.
--
-- Order of locks, everywhere: orders' counter, gate, standing, pot, share.

CREATE TABLE weir.gates (
    gate       text PRIMARY KEY CHECK (length(gate) BETWEEN 1 AND 128),
    epoch      bigint NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    token      text NOT NULL DEFAULT '',
    retired_at timestamptz,
    retired_by text
);

CREATE TABLE weir.standings (
    gate       text PRIMARY KEY REFERENCES weir.gates,
    position   bigint NOT NULL DEFAULT 0 CHECK (position >= 0),
    acked      bigint NOT NULL DEFAULT 0 CHECK (acked >= 0),
    expires_at timestamptz NOT NULL
);

CREATE TABLE weir.pots (
    budget  text NOT NULL,
    account text NOT NULL,
    kind    text NOT NULL,
    opens   bigint NOT NULL,
    PRIMARY KEY (budget, account, kind, opens)
);

CREATE TABLE weir.shares (
    budget  text NOT NULL,
    account text NOT NULL,
    kind    text NOT NULL,
    opens   bigint NOT NULL,
    gate    text NOT NULL REFERENCES weir.gates,
    held    bigint NOT NULL CHECK (held >= 0),
    raised  bigint NOT NULL CHECK (raised >= 0),
    epoch   bigint NOT NULL,
    seq     bigint NOT NULL,
    PRIMARY KEY (budget, account, kind, opens, gate),
    FOREIGN KEY (budget, account, kind, opens) REFERENCES weir.pots
);
CREATE INDEX shares_by_gate ON weir.shares (gate);

CREATE TABLE weir.counter (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO weir.counter (version) VALUES (0);

CREATE TABLE weir.orders (
    version bigint PRIMARY KEY,
    what    text NOT NULL CHECK (what IN ('freeze', 'thaw', 'revoke')),
    account text NOT NULL,
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE weir.corrections (
    gate    text NOT NULL,
    budget  text NOT NULL,
    account text NOT NULL,
    kind    text NOT NULL,
    opens   bigint NOT NULL,
    before  bigint NOT NULL,
    after   bigint NOT NULL,
    made_by text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A gate began. `the_epoch` is the length of its journal with the entry that says so, `the_token` that entry's hash.
-- Answers NULL, or why not: 'retired', or 'older' for a journal that is behind what the gate has shown before.
CREATE FUNCTION weir.register(the_gate text, the_epoch bigint, the_token text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known weir.gates;
    shown bigint;
BEGIN
    INSERT INTO weir.gates (gate) VALUES (the_gate) ON CONFLICT (gate) DO NOTHING;
    SELECT * INTO known FROM weir.gates WHERE gate = the_gate FOR UPDATE;
    IF known.retired_at IS NOT NULL THEN
        RETURN 'retired';
    END IF;
    IF known.epoch = the_epoch AND known.token = the_token THEN
        RETURN NULL;
    END IF;
    INSERT INTO weir.standings (gate, expires_at) VALUES (the_gate, clock_timestamp()) ON CONFLICT (gate) DO NOTHING;
    SELECT s.position INTO shown FROM weir.standings s WHERE s.gate = the_gate FOR UPDATE;
    IF the_epoch <= known.epoch OR the_epoch < shown THEN
        RETURN 'older';
    END IF;
    UPDATE weir.gates SET epoch = the_epoch, token = the_token WHERE gate = the_gate;
    UPDATE weir.standings SET position = the_epoch WHERE gate = the_gate;
    RETURN NULL;
END $$;

-- The gate lives, its journal has `the_position` entries, and it has followed every order up to `the_acked`.
-- Answers the newest order that there is and the newest that the gate has followed. The counter is locked: an order that is being given is waited for, so that
-- no standing begins which has not heard of it.
CREATE FUNCTION weir.renew(the_gate text, the_epoch bigint, the_position bigint, the_acked bigint, ttl_ms bigint)
RETURNS TABLE (refused text, version bigint, acked bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest   bigint;
    followed bigint;
BEGIN
    SELECT c.version INTO newest FROM weir.counter c FOR SHARE;
    PERFORM 1 FROM weir.gates g WHERE g.gate = the_gate AND g.epoch = the_epoch AND g.retired_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'fenced'::text, 0::bigint, 0::bigint;
        RETURN;
    END IF;
    UPDATE weir.standings s
    SET position = greatest(s.position, the_position),
        acked = greatest(s.acked, the_acked),
        expires_at = greatest(s.expires_at, clock_timestamp() + ttl_ms * interval '1 millisecond')
    WHERE s.gate = the_gate
    RETURNING s.acked INTO followed;
    RETURN QUERY SELECT NULL::text, newest, followed;
END $$;

-- The gate gives up its standing: it accepts nothing more on shared budgets until it renews.
CREATE FUNCTION weir.leave(the_gate text, the_epoch bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM weir.gates g WHERE g.gate = the_gate AND g.epoch = the_epoch FOR SHARE;
    IF FOUND THEN
        -- It has put its standing down itself: no clock is left to differ, and nobody needs to wait for the margin.
        UPDATE weir.standings s SET expires_at = to_timestamp(0) WHERE s.gate = the_gate;
    END IF;
END $$;

-- Orders after `seen`, oldest first.
CREATE FUNCTION weir.orders_after(seen bigint) RETURNS TABLE (version bigint, what text, account text, made_by text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.version, o.what, o.account, o.made_by FROM weir.orders o WHERE o.version > seen ORDER BY o.version
$$;

-- What a gate has in every pot.
CREATE FUNCTION weir.shares_of(the_gate text)
RETURNS TABLE (budget text, account text, kind text, opens bigint, held bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.budget, s.account, s.kind, s.opens, s.held FROM weir.shares s WHERE s.gate = the_gate
$$;

-- The gate states that its journal counts on `the_known` of a pot and asks for at least `the_least` and at most `the_most`
-- more. What the database held for it beyond `the_known` comes back by that: an answer that was lost, a return on its way.
-- Tranches that people granted at this gate, `the_raised` in all, are for every gate.
-- Answers what it has from now on and what is left; 'fenced' when another opening of this gate has begun since or it
-- was retired; 'stale' when a later statement about this pot was heard already.
CREATE FUNCTION weir.claim(
    the_gate text, the_epoch bigint, the_seq bigint,
    the_budget text, the_account text, the_kind text, the_opens bigint,
    the_known bigint, the_raised bigint, the_least bigint, the_most bigint, the_limit bigint
) RETURNS TABLE (refused text, held bigint, room bigint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mine   weir.shares;
    others numeric;
    raises numeric;
    free   numeric;
    more   numeric := 0;
BEGIN
    PERFORM 1 FROM weir.gates g WHERE g.gate = the_gate AND g.epoch = the_epoch AND g.retired_at IS NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 'fenced'::text, 0::bigint, 0::bigint;
        RETURN;
    END IF;
    PERFORM 1 FROM weir.pots p
    WHERE p.budget = the_budget AND p.account = the_account AND p.kind = the_kind AND p.opens = the_opens FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO weir.pots (budget, account, kind, opens) VALUES (the_budget, the_account, the_kind, the_opens)
        ON CONFLICT (budget, account, kind, opens) DO NOTHING;
        PERFORM 1 FROM weir.pots p
        WHERE p.budget = the_budget AND p.account = the_account AND p.kind = the_kind AND p.opens = the_opens FOR UPDATE;
    END IF;
    SELECT * INTO mine FROM weir.shares s
    WHERE s.budget = the_budget AND s.account = the_account AND s.kind = the_kind AND s.opens = the_opens
        AND s.gate = the_gate;
    IF FOUND AND (mine.epoch > the_epoch OR (mine.epoch = the_epoch AND mine.seq >= the_seq)) THEN
        RETURN QUERY SELECT 'stale'::text, 0::bigint, 0::bigint;
        RETURN;
    END IF;
    SELECT coalesce(sum(s.held), 0), coalesce(sum(s.raised), 0) INTO others, raises FROM weir.shares s
    WHERE s.budget = the_budget AND s.account = the_account AND s.kind = the_kind AND s.opens = the_opens
        AND s.gate <> the_gate;
    free := greatest(the_limit::numeric + raises + the_raised - others - the_known, 0);
    -- The same as `granted` in the gate's code: all that is needed or nothing, and beyond it at most half of the rest.
    IF free >= the_least THEN
        more := greatest(the_least::numeric, least(the_most::numeric, div(free, 2)));
    END IF;
    more := least(more, 9223372036854775807 - the_known::numeric);
    INSERT INTO weir.shares AS s (budget, account, kind, opens, gate, held, raised, epoch, seq)
    VALUES (the_budget, the_account, the_kind, the_opens, the_gate, (the_known + more)::bigint, the_raised, the_epoch, the_seq)
    ON CONFLICT (budget, account, kind, opens, gate)
    DO UPDATE SET held = excluded.held, raised = excluded.raised, epoch = excluded.epoch, seq = excluded.seq;
    RETURN QUERY SELECT NULL::text, (the_known + more)::bigint, least(free - more, 9223372036854775807::numeric)::bigint;
END $$;

-- An operator's order to every gate. Takes the counter for itself: whoever renews afterwards hears of it.
CREATE FUNCTION weir.give_order(the_what text, the_account text, the_by text) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    number bigint;
BEGIN
    UPDATE weir.counter c SET version = c.version + 1 RETURNING c.version INTO number;
    INSERT INTO weir.orders (version, what, account, made_by) VALUES (number, the_what, the_account, the_by);
    RETURN number;
END $$;

-- Gates that have not followed order `number` and whose standing, with the margin, has not run out.
CREATE FUNCTION weir.waiting_for(number bigint, margin_ms bigint) RETURNS TABLE (gate text)
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.gate FROM weir.standings s JOIN weir.gates g ON g.gate = s.gate
    WHERE g.retired_at IS NULL AND s.acked < number
        AND s.expires_at + margin_ms * interval '1 millisecond' > clock_timestamp()
$$;

-- Ends a gate for good. What it has in its pots stays counted as spent. Answers NULL, or 'unknown', or 'live'.
CREATE FUNCTION weir.retire(the_gate text, margin_ms bigint, the_by text) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until timestamptz;
BEGIN
    PERFORM 1 FROM weir.gates g WHERE g.gate = the_gate FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    END IF;
    SELECT s.expires_at INTO until FROM weir.standings s WHERE s.gate = the_gate FOR UPDATE;
    IF until + margin_ms * interval '1 millisecond' > clock_timestamp() THEN
        RETURN 'live';
    END IF;
    UPDATE weir.gates g SET retired_at = clock_timestamp(), retired_by = the_by
    WHERE g.gate = the_gate AND g.retired_at IS NULL;
    RETURN NULL;
END $$;

-- Says what a retired gate really spent of a pot; the rest of what it had is free again.
CREATE FUNCTION weir.correct(
    the_gate text, the_budget text, the_account text, the_kind text, the_opens bigint, spent bigint, the_by text
) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    was bigint;
BEGIN
    PERFORM 1 FROM weir.gates g WHERE g.gate = the_gate AND g.retired_at IS NOT NULL FOR SHARE;
    IF NOT FOUND THEN
        RETURN 'not retired';
    END IF;
    PERFORM 1 FROM weir.pots p
    WHERE p.budget = the_budget AND p.account = the_account AND p.kind = the_kind AND p.opens = the_opens FOR UPDATE;
    SELECT s.held INTO was FROM weir.shares s
    WHERE s.gate = the_gate AND s.budget = the_budget AND s.account = the_account AND s.kind = the_kind
        AND s.opens = the_opens;
    IF NOT FOUND THEN
        RETURN 'unknown';
    END IF;
    UPDATE weir.shares s SET held = spent
    WHERE s.gate = the_gate AND s.budget = the_budget AND s.account = the_account AND s.kind = the_kind
        AND s.opens = the_opens;
    INSERT INTO weir.corrections (gate, budget, account, kind, opens, before, after, made_by)
    VALUES (the_gate, the_budget, the_account, the_kind, the_opens, was, spent, the_by);
    RETURN NULL;
END $$;

REVOKE ALL ON ALL TABLES IN SCHEMA weir FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA weir FROM PUBLIC;
