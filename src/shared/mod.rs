//! One budget for several gates, on PostgreSQL, behind the `Treasury` port.
//!
//! A gate joins with the place of its opening in its own journal, keeps a standing by a heartbeat, and claims allowance.
//! Orders to freeze or revoke go round to every gate, given at any of them or from the office. All that the database does stands in `schema/`, in functions, so
//! that a gate's role has no right on any table. This module must not decide on calls and keeps nothing on disk.

mod address;
mod keeper;
mod link;
mod office;
mod passfile;
mod rounds;
mod standing;
mod treasury;

pub use address::{Address, AddressFault};
pub use keeper::Keeper;
pub use office::{GateRow, Office, PotRow};
pub use treasury::{Postgres, Terms};

/// The migrations, oldest first; the format of a database is how many of them it has seen.
const MIGRATIONS: &[&str] =
    &[include_str!("schema/0001.sql"), include_str!("schema/0002.sql"), include_str!("schema/0003.sql")];
/// Who may call what; applied after every migration.
const GRANTS: &str = include_str!("schema/grants.sql");
/// The channel on which gates are told to look for orders.
const CHANNEL: &str = "weir";
