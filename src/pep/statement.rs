//! The statement of all accounts: what a person is shown of budgets, of a running gate and of a store alike.
//!
//! One reading under the lock, or one fold of a journal; it changes nothing and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::gate::{InForce, in_force};
use super::port::JournalFault;
use super::replay::Replay;
use super::state::State;
use super::{Gate, GateFault};
use crate::audit::{Bad, Head, Question};
use crate::ledger::{AccountId, Balance, Bar};
use crate::model::{Amounts, CallId, Digest, Kind, Millis, Tier, Timestamp};
use crate::pdp::Compiled;

/// Every account at one moment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statement {
    /// When, by the gate's clock.
    pub at: Timestamp,
    /// The accounts, in order of id.
    pub accounts: Vec<AccountLine>,
    /// Calls with an unknown outcome that count as spent until they are reconciled.
    pub doubts: Vec<Doubt>,
    /// The policy that came into force last.
    pub policy: Option<Digest>,
    /// What waits for a person; shown by a desk, which knows the arguments.
    #[serde(skip)]
    pub questions: Vec<Question>,
}

/// One account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountLine {
    /// Its id.
    pub account: AccountId,
    /// Its place in the hierarchy.
    pub tier: Tier,
    /// Spent.
    pub posted: Amounts,
    /// Held.
    pub pending: Amounts,
    /// How it stands under the budgets that limit it.
    pub limits: Vec<LimitLine>,
    /// That it takes nothing new, and since when.
    pub closed: Option<Bar>,
}

/// One budget of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LimitLine {
    /// The budget.
    pub budget: String,
    /// What it counts.
    pub kind: Kind,
    /// Over which time, in words.
    pub window: String,
    /// The limit, with what was granted beyond it for good.
    pub limit: u64,
    /// What a new reservation may still hold.
    pub remaining: u64,
    /// At the rate of the last minutes, how long until nothing is left; `None` when nothing was spent lately.
    pub forecast_ms: Option<Millis>,
}

/// A call of which nobody knows how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// The call.
    pub call: CallId,
    /// What counts as spent for it.
    pub posted: Amounts,
}

impl Gate {
    /// The statement of now.
    ///
    /// # Errors
    /// The gate is closed: what it has in memory may not be on record.
    pub fn statement(&self) -> Result<Statement, GateFault> {
        let locked = self.lock().map_err(|reason| JournalFault(reason.detail))?;
        let now = self.now(&locked);
        Ok(locked.state.statement(&self.force(), now))
    }
}

impl Replay<'_> {
    /// The statement after all entries, with the limits of `policy`, at `now` or later.
    ///
    /// # Errors
    /// [`Bad`] names the first entry that does not hold.
    pub fn statement(self, head: Option<&Head>, policy: Arc<Compiled>, now: Timestamp) -> Result<Statement, Bad> {
        let (_, state) = self.end(head)?;
        let now = now.max(state.chain.last());
        Ok(state.statement(&in_force(policy), now))
    }
}

impl State {
    fn statement(&self, force: &InForce, now: Timestamp) -> Statement {
        let line = |balance: Balance| {
            let Balance { account, tier, posted, pending } = balance;
            AccountLine { account, tier, posted, pending, limits: Vec::new(), closed: None }
        };
        let balances = self.ledger.balances().into_iter().map(line);
        let mut lines: BTreeMap<AccountId, AccountLine> = balances.map(|line| (line.account.clone(), line)).collect();
        for standing in self.ledger.standings(&force.limits, now) {
            let limit = LimitLine {
                budget: standing.budget,
                kind: standing.kind,
                window: standing.window.to_string(),
                limit: standing.limit,
                remaining: standing.left,
                forecast_ms: standing.forecast,
            };
            if let Some(line) = lines.get_mut(&standing.account) {
                line.limits.push(limit);
            }
        }
        for (account, bar) in self.ledger.bars() {
            // One that was closed before it was ever used has nothing but that.
            let (posted, pending) = (Amounts::ZERO, Amounts::ZERO);
            let empty = Balance { account: account.clone(), tier: account.tier(), posted, pending };
            lines.entry(account.clone()).or_insert_with(|| line(empty)).closed = Some(bar.clone());
        }
        let doubts = self.ledger.doubts().map(|(call, posted)| Doubt { call: call.clone(), posted });
        Statement {
            at: now,
            accounts: lines.into_values().collect(),
            doubts: doubts.collect(),
            policy: self.policy,
            questions: self.docket.all_waiting(now).cloned().collect(),
        }
    }
}
