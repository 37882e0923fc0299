//! `weir budget`: what is left, who holds it, when it will be gone; and what an operator does about it.
//!
//! On a running gate through its routes, with the operator's token; where no gate runs, on the store itself under the
//! policy that it was used with. Both give the same JSON, and the texts are made from that.

mod place;
mod reported;
mod show;

use std::io::{self, Write as _};
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::compose;
use crate::ledger::AccountId;
use crate::model::Kind;
use place::Place;

/// Show budgets, raise, freeze, thaw, revoke, approve, reconcile.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    at: At,
}

/// Where the budgets are: at a running gate, or in a store that no gate uses.
#[derive(clap::Args)]
pub(super) struct At {
    /// A running gate: `unix:PATH` or `http://127.0.0.1:PORT`.
    #[arg(long, value_name = "URL", global = true, requires = "token_file")]
    url: Option<String>,
    /// File with the operator's token.
    #[arg(long, value_name = "FILE", global = true, requires = "url")]
    token_file: Option<PathBuf>,
    /// The store's folder, where no gate runs [default: `$WEIR_HOME`, or the user's state folder].
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "url")]
    store: Option<PathBuf>,
    /// The policy that the store was last used with; wanted where no gate runs.
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "url")]
    policy: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List every account that a budget limits, and what waits for a person.
    Ls {
        /// Only this account and those below it.
        account: Option<String>,
    },
    /// Show one account: budgets, forecast, and who below it spent what.
    Show {
        /// The account, as `ls` names it.
        account: String,
    },
    /// Add to a budget of one account.
    Raise {
        /// The budget's id.
        budget: String,
        /// The account, as `ls` names it.
        #[arg(long)]
        account: String,
        /// How much, in the unit of the budget's kind.
        #[arg(long, value_name = "AMOUNT")]
        by: u64,
    },
    /// Let nothing new run on an account or below it; what runs goes on.
    Freeze {
        /// The account.
        account: String,
    },
    /// Let a frozen account go on.
    Thaw {
        /// The account.
        account: String,
    },
    /// Close an account and all below it for good; what runs there is told to stop.
    Revoke {
        /// The account.
        account: String,
    },
    /// Say yes to what waits for a person; without an id, list it.
    Approve(Approve),
    /// Show what clients report of themselves beside what the gate metered.
    Reported,
    /// Say what a call with an unknown outcome really used, once; without an id, list such calls.
    Reconcile {
        /// The call's id.
        call: Option<String>,
        /// What it used: `micro_usd=120`, more than one kind one after the other, none for nothing.
        #[arg(value_name = "KIND=AMOUNT", requires = "call")]
        used: Vec<String>,
    },
}

/// A person's answer.
#[derive(clap::Args)]
pub(super) struct Approve {
    /// The question's id, or as much of its beginning as no other has.
    id: Option<String>,
    /// At a budget's cap, add this much instead of what the question names.
    #[arg(long, value_name = "AMOUNT", requires = "id")]
    add: Option<u64>,
    /// Say no.
    #[arg(long, requires = "id", conflicts_with = "add")]
    refuse: bool,
}

/// `weir approve`: the same as `weir budget approve`.
///
/// # Errors
/// As for [`run`].
pub(super) fn approve(approve: Approve, at: At) -> Result<u8, String> {
    run(Args { command: Command::Approve(approve), at })
}

/// Runs the command; the exit code.
///
/// # Errors
/// What went wrong and what to do about it, for standard error.
pub(super) fn run(args: Args) -> Result<u8, String> {
    let Args { command, at: At { url, token_file, store, policy, json } } = args;
    let place = match (&url, &token_file) {
        (Some(url), Some(file)) => Place::gate(url, file)?,
        _ => Place::store(compose::home(store)?, policy.as_deref())?,
    };
    let (answer, text) = execute(&place, command)?;
    let text = if json { format!("{answer}\n") } else { text };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("the output cannot be written: {error}"))
        }
        _ => Ok(0),
    }
}

/// What the command gives: as JSON and as text.
fn execute(place: &Place, command: Command) -> Result<(Value, String), String> {
    match command {
        Command::Ls { account } => {
            let mut statement = place.statement()?;
            if let Some(account) = account {
                show::keep_below(&mut statement, checked(&account)?.as_str());
            }
            let waiting = place.approvals().unwrap_or_default();
            let text = show::list(&statement, &waiting);
            Ok((statement, text))
        }
        Command::Show { account } => {
            let statement = place.statement()?;
            let account = checked(&account)?;
            show::account(&statement, account.as_str()).ok_or_else(|| {
                format!("the account `{account}` has not been used; `weir budget ls` lists those that were")
            })
        }
        Command::Raise { budget, account, by } => {
            let account = checked(&account)?;
            let answer = place.change("raise", &json!({"budget": budget, "account": account, "by": by}))?;
            Ok((answer, format!("{budget} of {account} has {by} more\n")))
        }
        Command::Freeze { account } => on(place, "freeze", &account, "is frozen: nothing new runs there"),
        Command::Thaw { account } => on(place, "thaw", &account, "goes on"),
        Command::Revoke { account } => on(place, "revoke", &account, "is revoked for good"),
        Command::Approve(Approve { id: None, .. }) => {
            let waiting = place.approvals()?;
            let text = show::questions(&waiting);
            Ok((json!({"approvals": waiting}), text))
        }
        Command::Approve(Approve { id: Some(id), add, refuse }) => {
            let card = find(place.approvals()?, &id)?;
            let answer = place.answer(&card["id"], !refuse, add)?;
            Ok((answer, show::answered(&card, !refuse, add)))
        }
        Command::Reported => {
            let table = place.reconciliation()?;
            let text = reported::text(&table);
            Ok((table, text))
        }
        Command::Reconcile { call: None, .. } => {
            let statement = place.statement()?;
            let text = show::doubts(&statement);
            Ok((json!({"doubts": statement["doubts"]}), text))
        }
        Command::Reconcile { call: Some(call), used } => {
            let used = amounts(&used)?;
            let answer = place.change("reconcile", &json!({"call": compose::name("call", &call)?, "used": used}))?;
            let text = format!("{call} counts as {} now\n", show::amounts(&answer["posted"]));
            Ok((answer, text))
        }
    }
}

fn on(place: &Place, what: &str, account: &str, done: &str) -> Result<(Value, String), String> {
    let account = checked(account)?;
    let answer = place.change(what, &json!({"account": account}))?;
    let whereof = match answer["reach"].as_str() {
        Some("gates") if what == "thaw" => ", at every gate that has not stopped it for itself",
        Some("gates") => ", at every gate",
        Some("store") => {
            ", at the gate of this store alone; its shared budgets are other gates' too: `weir store` orders all of them"
        }
        _ => "",
    };
    Ok((answer, format!("{account} {done}{whereof}\n")))
}

fn checked(account: &str) -> Result<AccountId, String> {
    AccountId::parse(account).map_err(|fault| format!("account `{}`: {fault}", crate::surface::visible(account, 130)))
}

/// `KIND=AMOUNT` texts as amounts.
fn amounts(texts: &[String]) -> Result<Map<String, Value>, String> {
    let mut amounts = Map::new();
    for text in texts {
        let wrong = || format!("`{}`: write KIND=AMOUNT, such as micro_usd=120", crate::surface::visible(text, 130));
        let (kind, amount) = text.split_once('=').ok_or_else(wrong)?;
        let kind = Kind::from_name(kind).ok_or_else(wrong)?.row().name;
        let amount: u64 = amount.parse().map_err(|_| wrong())?;
        if amounts.insert(kind.to_owned(), json!(amount)).is_some() {
            return Err(format!("{kind} is there twice"));
        }
    }
    Ok(amounts)
}

/// The one question whose id begins with `id`.
fn find(waiting: Vec<Value>, id: &str) -> Result<Value, String> {
    let begins = |card: &Value| !id.is_empty() && card["id"].as_str().is_some_and(|text| text.starts_with(id));
    let mut found: Vec<Value> = waiting.into_iter().filter(begins).collect();
    match (found.pop(), found.len()) {
        (Some(card), 0) => Ok(card),
        (None, _) => Err("nothing with this id waits for an answer: it was answered, taken back, or has expired; \
            `weir budget approve` lists what waits"
            .to_owned()),
        (Some(_), _) => Err("several questions begin like this; give more of the id".to_owned()),
    }
}
