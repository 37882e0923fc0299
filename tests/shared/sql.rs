//! The SQL against its slow twin, and who may do what in the database.

use std::collections::BTreeMap;

use weir::model::{Digest, Kind, Pot, Timestamp};
use weir::pep::port::{AccountId, Claim, Holding, Opening, Order, Round, Treasury as _, TreasuryFault};
use weir::shared::{Office, Postgres};

use super::book::{self, Book, No};
use super::server::{Server, TERMS};
use super::support::{Seeded, name};

pub fn pot(budget: &str) -> Pot {
    Pot { budget: budget.into(), account: "acme".into(), kind: Kind::MicroUsd, opens: Timestamp(0) }
}

fn gate(server: &Server, number: u8) -> Postgres {
    Postgres::open(server.address("gate"), &name(&format!("gate-{number}")), TERMS, None).unwrap()
}

fn opening(epoch: u64) -> Opening {
    Opening { epoch, token: Digest::of(&epoch.to_be_bytes()) }
}

/// The database and the book side by side.
struct Twins {
    book: Book,
    gates: BTreeMap<u8, (Postgres, u64)>,
    seq: u64,
}

impl Twins {
    fn claim(&mut self, gate: u8, pot_no: u8, (known, least, most, limit): (u64, u64, u64, u64)) {
        self.seq += 1;
        let (postgres, epoch) = &self.gates[&gate];
        let (epoch, seq) = (*epoch, self.seq);
        // Each gate's people have granted a little more now and then.
        let raised = self.seq / 100 * u64::from(gate);
        let said = self.book.claim(&book::Claim { gate, epoch, seq, pot: pot_no, known, raised, least, most, limit });
        let pot = pot(&format!("pot-{pot_no}"));
        let heard = postgres.claim(&Claim { pot: &pot, known, raised, least, most, limit });
        match (said, heard) {
            (Ok((held, room)), Ok(answer)) => assert_eq!(answer, Holding { held, room }),
            (Err(No::Fenced), Err(TreasuryFault::Fenced(_))) => {}
            (said, heard) => panic!("the book says {said:?}, the database {heard:?}"),
        }
    }

    fn join(&mut self, gate: u8, epoch: u64) {
        let (postgres, known) = self.gates.get_mut(&gate).unwrap();
        match (self.book.register(gate, epoch, epoch), postgres.join(opening(epoch))) {
            (Ok(()), Ok(shown)) => {
                *known = epoch;
                let held: u64 = shown.iter().map(|(_, held)| held).sum();
                let own = self.book.pots.values().filter_map(|pot| pot.shares.get(&gate)).map(|share| share.held);
                assert_eq!(held, own.sum::<u64>());
            }
            (Err(_), Err(TreasuryFault::Fenced(_))) => {}
            (said, heard) => panic!("the book says {said:?}, the database {heard:?}"),
        }
    }
}

#[test]
fn the_database_answers_what_its_slow_twin_answers() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let mut twins = Twins { book: Book::default(), gates: BTreeMap::new(), seq: 0 };
    let mut dice = Seeded(11);
    for number in 0..3 {
        twins.gates.insert(number, (gate(&server, number), 0));
        twins.join(number, 10);
    }
    for step in 0..1_500 {
        let (gate, pot_no) = (dice.below(3) as u8, dice.below(2) as u8);
        let held = twins.book.pots.get(&pot_no).and_then(|pot| pot.shares.get(&gate)).map_or(0, |share| share.held);
        match dice.below(40) {
            0 => twins.join(gate, 10 + dice.below(step + 2)),
            // An answer was lost, or a part goes back.
            2..=9 => {
                let known = if held == 0 { 0 } else { dice.below(held + 1) };
                twins.claim(gate, pot_no, (known, dice.below(4), dice.below(30), 100));
            }
            // An over-run.
            10 => twins.claim(gate, pot_no, (held + dice.below(5), 0, 0, 100)),
            _ => twins.claim(gate, pot_no, (held, dice.below(9), dice.below(40), 80 + dice.below(40))),
        }
    }
    assert_eq!(server.sql("admin", "SELECT sum(held) FROM weir.shares"), {
        (twins.book.held(0) + twins.book.held(1)).to_string()
    });
}

#[test]
fn a_late_statement_is_refused_and_an_older_opening_too() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let ask = |sql: &str| server.sql("gate", sql);
    let claim = |epoch: u64, seq: u64, known: u64, least: u64| {
        ask(&format!(
            "SELECT * FROM weir.claim('g', {epoch}, {seq}, 'b', 'acme', 'micro_usd', 0, {known}, 0, {least}, {least}, 10)"
        ))
    };
    assert_eq!(ask("SELECT weir.register('g', 5, 'first')"), "");
    assert_eq!(claim(5, 1, 0, 4), "|4|6");
    assert_eq!(claim(5, 3, 4, 2), "|6|4");
    assert_eq!(claim(5, 2, 4, 2), "stale|0|0", "it was sent before");
    assert_eq!(claim(5, 3, 4, 2), "stale|0|0", "it was sent before");
    assert_eq!(ask("SELECT weir.register('g', 5, 'first')"), "", "the same opening may say so twice");
    assert_eq!(ask("SELECT weir.register('g', 5, 'a copy')"), "older");
    assert_eq!(ask("SELECT weir.register('g', 7, 'second')"), "");
    assert_eq!(claim(5, 4, 6, 1), "fenced|0|0");
    assert_eq!(claim(7, 1, 6, 1), "|7|3");
    assert_eq!(ask("SELECT * FROM weir.renew('g', 7, 90, 0, 1000)"), "|0|0");
    assert_eq!(ask("SELECT weir.register('g', 60, 'a backup')"), "older", "it has shown 90 entries");
    assert_eq!(ask("SELECT weir.register('g', 91, 'third')"), "");
}

#[test]
fn a_gate_may_neither_read_change_nor_delete_what_is_not_its_own() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let forbidden = [
        "DELETE FROM weir.shares",
        "UPDATE weir.shares SET raised = 1000000",
        "INSERT INTO weir.orders VALUES (1, 'thaw', 'acme', 'me')",
        "SELECT * FROM weir.orders",
        "SELECT * FROM weir.shares",
        "TRUNCATE weir.gates CASCADE",
        "DROP TABLE weir.pots",
        "ALTER TABLE weir.pots DROP CONSTRAINT pots_pkey",
        "CREATE TABLE weir.own (x int)",
        "CREATE OR REPLACE FUNCTION weir.leave(the_gate text, the_epoch bigint) RETURNS void LANGUAGE sql AS ''",
        "SELECT weir.give_order('thaw', 'acme', 'me')",
        "SELECT weir.retire('other', 0, 'me')",
        "SELECT weir.correct('other', 'b', 'acme', 'micro_usd', 0, 0, 'me')",
    ];
    for sql in forbidden {
        let fault = server.try_sql("gate", sql).expect_err(sql);
        assert!(fault.contains("permission denied") || fault.contains("must be owner"), "{sql}: {fault}");
    }
    for sql in [
        "DELETE FROM weir.orders",
        "UPDATE weir.shares SET held = 0",
        "SELECT weir.claim('g',1,1,'b','a','c',0,0,0,0,0,0)",
    ] {
        let fault = server.try_sql("boss", sql).expect_err(sql);
        assert!(fault.contains("permission denied"), "{sql}: {fault}");
    }
    assert_eq!(server.sql("boss", "SELECT count(*) FROM weir.shares"), "0");
}

#[test]
fn a_database_is_prepared_once_and_another_format_is_refused() {
    let Some(server) = Server::start() else { return };
    let admin = Office::open(server.address("admin"), &TERMS).unwrap();
    assert_eq!(admin.format(), Ok(0));
    let unprepared = Postgres::open(server.address("admin"), &name("g"), TERMS, None).unwrap();
    assert!(unprepared.join(opening(1)).is_err());
    server.prepared();
    assert_eq!(admin.migrate(), Ok((3, 3)), "twice does nothing");
    let gate = gate(&server, 1);
    gate.join(opening(1)).unwrap();
    server.sql("admin", "INSERT INTO weir.format VALUES (4)");
    assert!(admin.migrate().unwrap_err().contains("later than this version"));
    let fault = self::gate(&server, 2).join(opening(1)).unwrap_err();
    assert!(fault.to_string().contains("weir store migrate"), "{fault}");
}

/// What a gate of the first format left behind is there after the migration, and orders can be given at gates.
#[test]
fn a_database_of_the_first_format_is_brought_up_to_date() {
    let Some(server) = Server::start() else { return };
    let office = server.of_format(1);
    let acme = AccountId::parse("acme").unwrap();
    office.order(Order::Freeze, &acme, "before").unwrap();
    let gate = gate(&server, 1);
    assert!(gate.join(opening(1)).unwrap_err().to_string().contains("weir store migrate"));
    let admin = Office::open(server.address("admin"), &TERMS).unwrap();
    assert_eq!(admin.migrate(), Ok((1, 3)));
    assert_eq!(server.sql("gate", "SELECT * FROM weir.orders_after(0)"), "1|freeze|acme|before|");
    gate.join(opening(1)).unwrap();
    let no = gate.circulate(Order::Thaw, &acme, "me").unwrap_err();
    assert!(no.to_string().contains("from elsewhere"), "{no}");
    assert_eq!(gate.circulate(Order::Freeze, &acme, "me"), Ok(Round::Done), "it has no standing to wait for");
}

/// A gate of the second format goes on while the database is brought up to date: what it asks it may still ask, in its
/// own words, and it is answered as before.
#[test]
fn a_gate_of_the_second_format_goes_on_through_the_migration() {
    let Some(server) = Server::start() else { return };
    let office = server.of_format(2);
    let ask = |sql: &str| server.sql("gate", sql);
    let orders = "SELECT version, what, account, made_by FROM weir.orders_after(0)";
    assert_eq!(ask("SELECT weir.register('g', 5, 'first')"), "");
    assert_eq!(ask("SELECT * FROM weir.order_from('g', 5, 'freeze', 'acme', 'me')"), "|1");
    assert_eq!(ask(orders), "1|freeze|acme|me");
    let admin = Office::open(server.address("admin"), &TERMS).unwrap();
    assert_eq!(admin.migrate(), Ok((2, 3)));
    assert_eq!(ask(orders), "1|freeze|acme|me");
    assert_eq!(ask("SELECT * FROM weir.renew('g', 5, 6, 1, 1000)"), "|1|1");
    assert_eq!(ask("SELECT * FROM weir.order_from('g', 5, 'thaw', 'acme', 'me')"), "|2");
    let acme = AccountId::parse("acme").unwrap();
    assert_eq!(ask("SELECT weir.leave('g', 5)"), "");
    office.order(Order::Revoke, &acme, "boss").unwrap();
    let all = "1|freeze|acme|me|g\n2|thaw|acme|me|g\n3|revoke|acme|boss|";
    assert_eq!(ask("SELECT * FROM weir.orders_after(0)"), all, "who gave each, those of before too");
}

/// Who gave an order is what the database has checked: no gate passes for the office, and none for nobody.
#[test]
fn a_gate_does_not_give_an_order_as_the_office() {
    let Some(server) = Server::start() else { return };
    server.prepared();
    let ask = |sql: &str| server.sql("gate", sql);
    assert_eq!(ask("SELECT weir.register('g', 5, 'first')"), "");
    for no in ["NULL, 5", "'', 5", "'office', 5", "'g', 4", "'g', NULL"] {
        assert_eq!(ask(&format!("SELECT * FROM weir.order_from({no}, 'freeze', 'acme', 'me')")), "fenced|0", "{no}");
    }
    assert_eq!(ask("SELECT count(*) FROM weir.orders_after(0)"), "0");
    assert!(server.try_sql("gate", "SELECT weir.give_order('thaw', 'acme', 'me')").is_err());
    let everybody = "SELECT has_function_privilege('public', 'weir.orders_after(bigint)', 'execute')";
    assert_eq!(server.sql("admin", everybody), "f");
}
