-- Which gate gave an order, told to all of them: what a gate has stopped for itself is lifted by no other gate.

-- The columns of before keep their names and places, so that a gate of the second format that still runs reads its
-- orders as it did; it starts again only with a program of this format. Both happen in the transaction of the migration,
-- so that nobody finds no function.
DROP FUNCTION weir.orders_after(bigint);

-- Orders after `seen`, oldest first. `gate` is what `order_from` has written, which checks who calls it; NULL for an order
-- from the office, which no gate's role may give.
CREATE FUNCTION weir.orders_after(seen bigint)
RETURNS TABLE (version bigint, what text, account text, made_by text, gate text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT o.version, o.what, o.account, o.made_by, o.gate FROM weir.orders o WHERE o.version > seen ORDER BY o.version
$$;

REVOKE ALL ON FUNCTION weir.orders_after(bigint) FROM PUBLIC;
