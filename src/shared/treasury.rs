//! The `Treasury` of a gate on PostgreSQL: one statement for each question.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio_postgres::Row;

use super::link::{Link, LinkFault, Param};
use super::rounds::go_round;
use super::standing::{Moment, Standing};
use super::{Address, MIGRATIONS};
use crate::ledger::AccountId;
use crate::model::{Giver, Kind, Name, Timestamp};
use crate::pep::port::{Claim, Holding, Opening, Order, Pot, Round, Treasury, TreasuryFault};

/// How long things may take. Gates and operators of one database should agree on them.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a standing lasts, by the database's clock, after it was renewed.
    pub ttl: Duration,
    /// By how much less a gate trusts it: bounds how far its clock may fall behind within `ttl`.
    pub margin: Duration,
    /// How long allowance may lie unused before it goes back.
    pub idle: Duration,
    /// How long one statement may take.
    pub patience: Duration,
    /// Connections for claims.
    pub lanes: usize,
}

impl Default for Terms {
    fn default() -> Self {
        let (ttl, margin) = (Duration::from_secs(6), Duration::from_secs(1));
        Self { ttl, margin, idle: Duration::from_secs(5), patience: Duration::from_secs(2), lanes: 3 }
    }
}

impl Terms {
    pub(super) fn margin_ms(&self) -> i64 {
        i64::try_from(self.margin.as_millis()).unwrap_or(i64::MAX)
    }

    /// How long a gate that has just renewed may go on without a word.
    pub(super) fn longest(&self) -> Duration {
        self.ttl + self.margin + self.patience
    }
}

/// An order that went round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Circular {
    pub(super) number: i64,
    pub(super) what: String,
    pub(super) account: String,
    pub(super) by: String,
    /// Who gave it, as the database says and not as the order does.
    pub(super) from: Giver,
}

/// Allowance out of a database that several gates share.
#[derive(Debug)]
pub struct Postgres {
    link: Link,
    gate: String,
    /// Tells two copies of one store apart that are opened at the same place of their journals.
    nonce: String,
    terms: Terms,
    standing: Standing,
    /// The place of the gate's opening; 0 before it has joined.
    epoch: AtomicU64,
    /// Numbers the statements of one opening.
    seq: AtomicU64,
    /// The newest order that the gate has followed.
    acked: AtomicU64,
}

/// What a refusal by the database means.
const RETIRED: &str =
    "this gate was retired by an operator; what it held is counted as spent. Start it with a new store";
const OLDER: &str = "the database has seen a longer journal of this gate: the store was restored from a backup, or a copy \
                     of it runs elsewhere. Retire this gate with `weir store retire` and start with a new store";
const FENCED: &str = "another opening of this gate's store has begun since, or it was retired";

impl Postgres {
    /// Opens connections for the gate `gate`; nothing is connected before it is needed. `bell` rings when gates are told
    /// to look for orders.
    ///
    /// # Errors
    /// The thread for the connections cannot be started.
    pub fn open(address: Address, gate: &Name, terms: Terms, bell: Option<Sender<()>>) -> std::io::Result<Self> {
        let link = Link::open(address, terms.lanes + 1, terms.patience, bell)?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let (gate, nonce) = (gate.as_str().to_owned(), hex::encode(random));
        let (epoch, seq, acked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { link, gate, nonce, terms, standing: Standing::default(), epoch, seq, acked })
    }

    pub(super) const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Tells that the gate lives and how long its journal is. Answers the orders that it has to follow before the
    /// standing that comes with them counts.
    pub(super) fn heartbeat(&self, position: u64) -> Result<(Moment, Vec<Circular>), TreasuryFault> {
        let asked = Moment::now();
        let acked = self.acked.load(Ordering::SeqCst);
        let ttl = i64::try_from(self.terms.ttl.as_millis()).unwrap_or(i64::MAX);
        let params = vec![self.gate(), self.epoch(), whole(position), whole(acked), Param::Whole(ttl)];
        let row =
            self.one(self.heart(), "SELECT refused, version, acked FROM weir.renew($1, $2, $3, $4, $5)", params)?;
        refused(&row)?;
        // What an earlier opening followed is in the journal already.
        self.followed(get(&row, 2)?);
        let acked = self.acked.load(Ordering::SeqCst);
        if unsigned(get(&row, 1)?) <= acked {
            return Ok((asked, Vec::new()));
        }
        let sql = "SELECT version, what, account, made_by, gate FROM weir.orders_after($1)";
        let rows = self.link.query(self.heart(), sql, vec![whole(acked)]).map_err(fault)?;
        let order = |row: &Row| {
            let from = Giver::round(get::<Option<String>>(row, 4)?.as_deref());
            Ok(Circular { number: get(row, 0)?, what: get(row, 1)?, account: get(row, 2)?, by: get(row, 3)?, from })
        };
        Ok((asked, rows.iter().map(order).collect::<Result<_, TreasuryFault>>()?))
    }

    /// Every order up to `number` is followed, durably.
    pub(super) fn followed(&self, number: i64) {
        self.acked.fetch_max(u64::try_from(number).unwrap_or_default(), Ordering::SeqCst);
    }

    /// The gate may spend until the standing that was asked for at `asked` runs out.
    pub(super) fn stand(&self, asked: Moment) {
        self.standing.renew(asked, self.terms.ttl.saturating_sub(self.terms.margin));
    }

    /// The gate spends nothing more from here on, and says so.
    pub(super) fn leave(&self) {
        self.standing.end();
        // Without an answer the standing runs out by itself.
        let _ = self.link.query(self.heart(), "SELECT weir.leave($1, $2)", vec![self.gate(), self.epoch()]);
    }

    pub(super) fn fall(&self) {
        self.standing.end();
    }

    fn gate(&self) -> Param {
        Param::Text(self.gate.clone())
    }

    fn epoch(&self) -> Param {
        whole(self.epoch.load(Ordering::SeqCst))
    }

    /// The lane that claims never use, so that a hot pot delays no heartbeat.
    fn heart(&self) -> usize {
        self.link.lanes() - 1
    }

    fn lane(&self, pot: &Pot) -> usize {
        let mut hasher = DefaultHasher::new();
        pot.hash(&mut hasher);
        usize::try_from(hasher.finish()).unwrap_or_default() % (self.link.lanes() - 1).max(1)
    }

    fn one(&self, lane: usize, sql: &'static str, params: Vec<Param>) -> Result<Row, TreasuryFault> {
        let rows = self.link.query(lane, sql, params).map_err(fault)?;
        rows.into_iter().next().ok_or_else(|| TreasuryFault::Unreachable("the database gave no answer".into()))
    }

    /// What the database says to an order of this gate.
    fn order(&self, order: Order, account: &AccountId, by: &str) -> Result<Option<i64>, TreasuryFault> {
        let text = |text: &str| Param::Text(text.to_owned());
        let params = vec![self.gate(), self.epoch(), text(order.word()), text(account.as_str()), text(by)];
        let row = self.one(self.heart(), "SELECT refused, number FROM weir.order_from($1, $2, $3, $4, $5)", params)?;
        let no = |why: &str| Err(TreasuryFault::Refused(format!("`{account}` {why}")));
        match get::<Option<String>>(&row, 0)?.as_deref() {
            Some("none") => Ok(None),
            Some("revoked") => no("is revoked for good"),
            Some("elsewhere") => {
                no("was stopped from elsewhere: thaw it at the gate that stopped it, or with `weir store thaw`")
            }
            _ => refused(&row).and_then(|()| get(&row, 1)).map(Some),
        }
    }

    fn is_current(&self) -> Result<(), TreasuryFault> {
        let row = self.one(self.heart(), "SELECT coalesce(max(version), 0)::int8 FROM weir.format", Vec::new())?;
        let (there, here): (i64, usize) = (get(&row, 0)?, MIGRATIONS.len());
        if usize::try_from(there).is_ok_and(|there| there == here) {
            return Ok(());
        }
        let text =
            format!("the database has format {there} and this version of weir speaks {here}; run `weir store migrate`");
        Err(TreasuryFault::Unreachable(text))
    }
}

impl Treasury for Postgres {
    fn join(&self, opening: Opening) -> Result<Vec<(Pot, u64)>, TreasuryFault> {
        self.is_current()?;
        let params =
            vec![self.gate(), whole(opening.epoch), Param::Text(format!("{} {}", opening.token.hex(), self.nonce))];
        let row = self.one(self.heart(), "SELECT weir.register($1, $2, $3)", params)?;
        refused(&row)?;
        self.epoch.store(opening.epoch, Ordering::SeqCst);
        let sql = "SELECT budget, account, kind, opens, held FROM weir.shares_of($1)";
        let rows = self.link.query(self.heart(), sql, vec![self.gate()]).map_err(fault)?;
        rows.iter().filter_map(|row| share(row).transpose()).collect()
    }

    fn live(&self) -> bool {
        self.standing.live()
    }

    fn claim(&self, claim: &Claim<'_>) -> Result<Holding, TreasuryFault> {
        // A number of its own for every statement: one that comes late is refused, and the answer to it reaches nobody.
        let seq = self.seq.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let [budget, account, kind, opens] = pot(claim.pot);
        let params = vec![
            self.gate(),
            self.epoch(),
            whole(seq),
            budget,
            account,
            kind,
            opens,
            whole(claim.known),
            whole(claim.raised),
            whole(claim.least),
            whole(claim.most),
            whole(claim.limit),
        ];
        let sql = "SELECT refused, held, room FROM weir.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
        let row = self.one(self.lane(claim.pot), sql, params)?;
        refused(&row)?;
        Ok(Holding { held: unsigned(get(&row, 1)?), room: unsigned(get(&row, 2)?) })
    }

    fn circulate(&self, order: Order, account: &AccountId, by: &str) -> Result<Round, TreasuryFault> {
        let Some(number) = self.order(order, account, by)? else { return Ok(Round::Needless) };
        let round = go_round(&self.link, self.heart(), number, self.terms.margin_ms(), self.terms.longest());
        round.map(|_| Round::Done).map_err(TreasuryFault::Unreachable)
    }
}

/// What the first column says against it.
fn refused(row: &Row) -> Result<(), TreasuryFault> {
    match get::<Option<String>>(row, 0)?.as_deref() {
        None => Ok(()),
        Some("retired") => Err(TreasuryFault::Fenced(RETIRED.to_owned())),
        Some("older") => Err(TreasuryFault::Fenced(OLDER.to_owned())),
        Some("fenced") => Err(TreasuryFault::Fenced(FENCED.to_owned())),
        Some(other) => Err(TreasuryFault::Unreachable(format!("the database refused: {other}"))),
    }
}

/// A row of `weir.shares_of`. A kind that this version does not know is of no use to it.
fn share(row: &Row) -> Result<Option<(Pot, u64)>, TreasuryFault> {
    let Some(kind) = Kind::from_name(&get::<String>(row, 2)?) else { return Ok(None) };
    let opens = Timestamp(unsigned(get(row, 3)?));
    let pot = Pot { budget: get(row, 0)?, account: get(row, 1)?, kind, opens };
    Ok(Some((pot, unsigned(get(row, 4)?))))
}

fn pot(pot: &Pot) -> [Param; 4] {
    let kind = Param::Text(pot.kind.row().name.to_owned());
    [Param::Text(pot.budget.clone()), Param::Text(pot.account.clone()), kind, whole(pot.opens.0)]
}

/// An amount as the database counts; it ends at 2^63 - 1, as limits do.
fn whole(number: u64) -> Param {
    Param::Whole(i64::try_from(number).unwrap_or(i64::MAX))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn get<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, at: usize) -> Result<T, TreasuryFault> {
    row.try_get(at)
        .map_err(|error| TreasuryFault::Unreachable(format!("the database's answer cannot be read: {error}")))
}

fn fault(fault: LinkFault) -> TreasuryFault {
    match fault {
        LinkFault::Unreachable(why) | LinkFault::Refused(why) => TreasuryFault::Unreachable(why),
    }
}
