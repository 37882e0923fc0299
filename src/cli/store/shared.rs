//! The part of `weir store` that is about the database of shared budgets: prepare it, look at its gates, give orders.

use std::io::{self, Write};

use super::super::shared::Place;
use crate::ledger::AccountId;
use crate::model::{Kind, Pot, Timestamp};
use crate::pep::port::Order;
use crate::shared::{Office, Terms};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Prepare a PostgreSQL for shared budgets, as a role that may create schemas and roles.
    Init(Place),
    /// Bring an older database of shared budgets up to date, all or nothing.
    Migrate(Place),
    /// Show every gate that shares budgets, and what it holds.
    Gates(Place),
    /// Freeze an account at every gate; returns when none accepts for it any more.
    Freeze(Given),
    /// Let a frozen account go on, at every gate.
    Thaw(Given),
    /// Close an account for good at every gate; returns when none accepts for it any more.
    Revoke(Given),
    /// End a gate that is gone for good: it is refused from now on, and what it held counts as spent.
    Retire {
        /// The gate, as `weir store gates` prints it.
        gate: String,
        /// Who does it.
        #[arg(long, value_name = "WHO")]
        by: String,
        #[command(flatten)]
        place: Place,
    },
    /// Say what a retired gate really spent of a budget; the rest is free again.
    Correct {
        /// The gate, as `weir store gates` prints it.
        gate: String,
        /// The budget.
        budget: String,
        /// The account.
        account: String,
        /// The kind that the budget counts.
        kind: String,
        /// What was really spent, in the kind's unit.
        spent: u64,
        /// When the window began, in milliseconds since 1970; for a budget that counts in total 0.
        #[arg(long, default_value_t = 0)]
        opens: u64,
        /// Who does it.
        #[arg(long, value_name = "WHO")]
        by: String,
        #[command(flatten)]
        place: Place,
    },
}

/// An order to every gate.
#[derive(Debug, clap::Args)]
pub(super) struct Given {
    /// The account: `org`, `org/agent`, `org/agent/session`, …
    account: String,
    /// Who gives it.
    #[arg(long, value_name = "WHO")]
    by: String,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
pub(super) fn run(command: Command, out: &mut dyn Write) -> Result<io::Result<()>, String> {
    let said = match command {
        Command::Init(place) => {
            let (before, after) = open(&place)?.migrate()?;
            if before > 0 {
                return Err(format!("the database is prepared already, with format {before} of {after}"));
            }
            format!("prepared, format {after}; give logins the roles weir_gate and weir_operator")
        }
        Command::Migrate(place) => {
            let (before, after) = open(&place)?.migrate()?;
            format!("format {before} before, {after} now")
        }
        Command::Gates(place) => return gates(&open(&place)?).map(|text| write!(out, "{text}")),
        Command::Freeze(given) => give(Order::Freeze, &given)?,
        Command::Thaw(given) => give(Order::Thaw, &given)?,
        Command::Revoke(given) => give(Order::Revoke, &given)?,
        Command::Retire { gate, by, place } => {
            open(&place)?.retire(&gate, &by)?;
            format!("{gate} is retired; what it held counts as spent (`weir store correct` says otherwise)")
        }
        Command::Correct { gate, budget, account, kind, spent, opens, by, place } => {
            let kind = Kind::from_name(&kind).ok_or_else(|| format!("`{kind}` is no kind of budgets"))?;
            let pot = Pot { budget, account, kind, opens: Timestamp(opens) };
            open(&place)?.correct(&gate, &pot, spent, &by)?;
            format!("{gate} spent {spent} {} of `{}`", kind.row().unit, pot.budget)
        }
    };
    Ok(writeln!(out, "{said}"))
}

fn open(place: &Place) -> Result<Office, String> {
    Office::open(place.need()?, &Terms::default()).map_err(|error| error.to_string())
}

fn give(order: Order, given: &Given) -> Result<String, String> {
    let account = AccountId::parse(&given.account).map_err(|fault| format!("`{}`: {fault}", given.account))?;
    let took = open(&given.place)?.order(order, &account, &given.by)?;
    Ok(format!("{} {account}: in force at every gate after {} ms", order.word(), took.as_millis()))
}

fn gates(office: &Office) -> Result<String, String> {
    let (gates, pots) = (office.gates()?, office.pots(None)?);
    let mut text = String::new();
    for gate in gates {
        let state = match (gate.retired, gate.ends_in_ms > 0) {
            (true, _) => "retired",
            (false, true) => "live",
            (false, false) => "away",
        };
        text.push_str(&format!("{}  {state}  {} entries\n", gate.gate, gate.position));
        for row in pots.iter().filter(|row| row.gate == gate.gate) {
            let (pot, unit) = (&row.pot, row.pot.kind.row().unit);
            let window = if pot.opens.0 == 0 { String::new() } else { format!(" (window of {})", pot.opens.0) };
            text.push_str(&format!("    {} {}{window}: {} {unit}\n", pot.budget, pot.account, row.held));
        }
    }
    Ok(text)
}
