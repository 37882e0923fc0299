//! What people do on the shared database: prepare it, give orders to every gate, retire a gate that is gone.

use std::time::{Duration, Instant};

use tokio_postgres::Row;

use super::link::{Link, Param};
use super::rounds::go_round;
use super::{Address, GRANTS, MIGRATIONS, Terms};
use crate::ledger::AccountId;
use crate::model::{Kind, Pot, Timestamp};
use crate::pep::port::Order;

/// A connection for people.
#[derive(Debug)]
pub struct Office {
    link: Link,
    margin: i64,
    longest: Duration,
}

/// A gate as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateRow {
    /// Its name.
    pub gate: String,
    /// Entries of its journal when it last spoke.
    pub position: u64,
    /// Milliseconds until its standing ends; negative once it has.
    pub ends_in_ms: i64,
    /// True once it was retired.
    pub retired: bool,
    /// The newest order that it has followed.
    pub acked: u64,
}

/// What one gate has of one pot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PotRow {
    /// The pot.
    pub pot: Pot,
    /// The gate.
    pub gate: String,
    /// What it has drawn and not given back: spent, held or lying unused there.
    pub held: u64,
}

impl Office {
    /// Opens a connection. `terms` must be those of the gates, for an order waits as long as a standing may last.
    ///
    /// # Errors
    /// The thread for the connection cannot be started.
    pub fn open(address: Address, terms: &Terms) -> std::io::Result<Self> {
        // A migration may wait for a table longer than a claim does.
        let link = Link::open(address, 1, terms.patience * 5, None)?;
        let margin = terms.margin_ms();
        Ok(Self { link, margin, longest: terms.longest() })
    }

    /// Prepares the database: the schema, the functions, and the roles `weir_gate` and `weir_operator`. Brings an older
    /// one up to date. All or nothing; gives the format before and after.
    ///
    /// # Errors
    /// A sentence: not reached, not permitted, or prepared by a later version.
    pub fn migrate(&self) -> Result<(usize, usize), String> {
        let before = self.format()?;
        let Some(missing) = MIGRATIONS.get(before..) else {
            return Err(format!("the database has format {before}, which is later than this version of weir knows"));
        };
        let mut script = String::from("BEGIN;\n");
        if before == 0 {
            script.push_str("CREATE SCHEMA weir; CREATE TABLE weir.format (version int PRIMARY KEY);\n");
        }
        for (number, migration) in (before + 1..).zip(missing) {
            script.push_str(&format!("{migration}\nINSERT INTO weir.format (version) VALUES ({number});\n"));
        }
        script.push_str(GRANTS);
        script.push_str("\nCOMMIT;");
        self.link
            .script(script)
            .inspect_err(|_| drop(self.link.script("ROLLBACK".into())))
            .map_err(|fault| fault.to_string())?;
        Ok((before, MIGRATIONS.len()))
    }

    /// How many migrations the database has seen; 0 when it is not prepared.
    ///
    /// # Errors
    /// A sentence.
    pub fn format(&self) -> Result<usize, String> {
        let there = self.rows("SELECT (to_regclass('weir.format') IS NOT NULL)", Vec::new())?;
        if !cell::<bool>(&there, 0, 0)? {
            return Ok(0);
        }
        let rows = self.rows("SELECT coalesce(max(version), 0)::int8 FROM weir.format", Vec::new())?;
        Ok(usize::try_from(cell::<i64>(&rows, 0, 0)?).unwrap_or_default())
    }

    /// Gives `order` on `account` to every gate, and returns when each has followed it or
    /// has no standing any more: from then on no gate accepts what the order forbids. Gives how long that took.
    ///
    /// # Errors
    /// A sentence. Where it says which gates are waited for, the order stands and is followed by each gate in turn.
    pub fn order(&self, order: Order, account: &AccountId, by: &str) -> Result<Duration, String> {
        let began = Instant::now();
        let text = |text: &str| Param::Text(text.to_owned());
        let rows = self
            .rows("SELECT weir.give_order($1, $2, $3)", vec![text(order.word()), text(account.as_str()), text(by)])?;
        go_round(&self.link, 0, cell(&rows, 0, 0)?, self.margin, self.longest)?;
        Ok(began.elapsed())
    }

    /// Every gate that has ever joined, by name.
    ///
    /// # Errors
    /// A sentence.
    pub fn gates(&self) -> Result<Vec<GateRow>, String> {
        let sql = "SELECT g.gate, s.position, \
                   (extract(epoch FROM s.expires_at - clock_timestamp()) * 1000)::int8, \
                   g.retired_at IS NOT NULL, s.acked \
                   FROM weir.gates g JOIN weir.standings s ON s.gate = g.gate ORDER BY g.gate";
        let rows = self.rows(sql, Vec::new())?;
        let gate = |row: &Row| {
            let (gate, retired) = (value(row, 0)?, value(row, 3)?);
            let (position, acked) = (unsigned(value(row, 1)?), unsigned(value(row, 4)?));
            Ok(GateRow { gate, position, ends_in_ms: value(row, 2)?, retired, acked })
        };
        rows.iter().map(gate).collect()
    }

    /// What `gate` has of every pot; of all gates when none is named.
    ///
    /// # Errors
    /// A sentence.
    pub fn pots(&self, gate: Option<&str>) -> Result<Vec<PotRow>, String> {
        let sql = "SELECT budget, account, kind, opens, gate, held FROM weir.shares \
                   WHERE held > 0 AND ($1 = '' OR gate = $1) ORDER BY budget, account, kind, opens, gate";
        let rows = self.rows(sql, vec![Param::Text(gate.unwrap_or_default().to_owned())])?;
        rows.iter().filter_map(|row| pot(row).transpose()).collect()
    }

    /// Ends a gate for good: it is refused from now on, and what it had counts as spent.
    ///
    /// # Errors
    /// A sentence: there is no such gate, or its standing has not run out.
    pub fn retire(&self, gate: &str, by: &str) -> Result<(), String> {
        let params = vec![Param::Text(gate.to_owned()), Param::Whole(self.margin), Param::Text(by.to_owned())];
        let rows = self.rows("SELECT weir.retire($1, $2, $3)", params)?;
        match cell::<Option<String>>(&rows, 0, 0)?.as_deref() {
            None => Ok(()),
            Some("unknown") => Err(format!("no gate `{gate}` has ever joined")),
            Some("live") => Err(format!("`{gate}` has a standing still: stop it, or wait until it has run out")),
            Some(other) => Err(other.to_owned()),
        }
    }

    /// Says what a retired gate really spent of a pot; the rest of what it had is free again.
    ///
    /// # Errors
    /// A sentence: the gate is not retired, or has nothing of the pot.
    pub fn correct(&self, gate: &str, pot: &Pot, spent: u64, by: &str) -> Result<(), String> {
        let text = |text: &str| Param::Text(text.to_owned());
        let whole = |number: u64| Param::Whole(i64::try_from(number).unwrap_or(i64::MAX));
        let (account, kind) = (text(&pot.account), text(pot.kind.row().name));
        let params = vec![text(gate), text(&pot.budget), account, kind, whole(pot.opens.0), whole(spent), text(by)];
        let rows = self.rows("SELECT weir.correct($1, $2, $3, $4, $5, $6, $7)", params)?;
        match cell::<Option<String>>(&rows, 0, 0)?.as_deref() {
            None => Ok(()),
            Some("not retired") => Err(format!("`{gate}` is not retired; what it has it settles itself")),
            Some(_) => Err(format!("`{gate}` has nothing of `{}` for `{}`", pot.budget, pot.account)),
        }
    }

    fn rows(&self, sql: &'static str, params: Vec<Param>) -> Result<Vec<Row>, String> {
        self.link.query(0, sql, params).map_err(|fault| fault.to_string())
    }
}

fn pot(row: &Row) -> Result<Option<PotRow>, String> {
    let Some(kind) = Kind::from_name(&value::<String>(row, 2)?) else { return Ok(None) };
    let pot = Pot { budget: value(row, 0)?, account: value(row, 1)?, kind, opens: Timestamp(unsigned(value(row, 3)?)) };
    Ok(Some(PotRow { pot, gate: value(row, 4)?, held: unsigned(value(row, 5)?) }))
}

fn cell<'r, T: tokio_postgres::types::FromSql<'r>>(rows: &'r [Row], row: usize, at: usize) -> Result<T, String> {
    value(rows.get(row).ok_or("the database gave no answer")?, at)
}

fn value<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, String> {
    row.try_get(at).map_err(|error| format!("the database's answer cannot be read: {error}"))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
