-- Who may do what. A gate may call what a gate needs and nothing else; an operator may also read every table.
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = 'weir_gate') THEN
        CREATE ROLE weir_gate NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = 'weir_operator') THEN
        CREATE ROLE weir_operator NOLOGIN;
    END IF;
END $$;

GRANT USAGE ON SCHEMA weir TO weir_gate, weir_operator;
GRANT SELECT ON weir.format TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.register(text, bigint, text) TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.renew(text, bigint, bigint, bigint, bigint) TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.leave(text, bigint) TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.orders_after(bigint) TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.shares_of(text) TO weir_gate;
GRANT EXECUTE ON FUNCTION
    weir.claim(text, bigint, bigint, text, text, text, bigint, bigint, bigint, bigint, bigint, bigint) TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.order_from(text, bigint, text, text, text) TO weir_gate;
GRANT EXECUTE ON FUNCTION weir.waiting_for(bigint, bigint) TO weir_gate;

GRANT SELECT ON ALL TABLES IN SCHEMA weir TO weir_operator;
GRANT EXECUTE ON FUNCTION weir.give_order(text, text, text) TO weir_operator;
GRANT EXECUTE ON FUNCTION weir.waiting_for(bigint, bigint) TO weir_operator;
GRANT EXECUTE ON FUNCTION weir.retire(text, bigint, text) TO weir_operator;
GRANT EXECUTE ON FUNCTION weir.correct(text, text, text, text, bigint, bigint, text) TO weir_operator;
