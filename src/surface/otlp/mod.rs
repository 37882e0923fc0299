//! What coding agents tell of themselves over OTLP: read strictly, matched with what the gate decided and metered.
//!
//! Pure parts of the sidecar's routes (`http/otlp.rs`): bytes in, claims and differences out. A claim is the word of a
//! client: it raises alarms, and nothing here or there may let it settle, refund or clear anything. Contents of prompts,
//! arguments and results are never taken out of a record.

mod claim;
mod compare;
mod money;
mod pace;
mod tally;
mod wire;

pub(crate) use claim::{Claim, Usage, What, read, read_sum, wanted};
pub(crate) use compare::{Excess, excess, is_past};
pub(crate) use pace::Pace;
pub(crate) use tally::{Entered, Telemetry, Told};
pub(crate) use wire::{logs, sums};

/// Bytes of one request.
pub(crate) const BODY_BYTES: usize = 4 << 20;
/// Records of one request; further ones are rejected, as the answer says.
pub(crate) const RECORDS: usize = 10_000;
/// Attributes of one record.
pub(crate) const ATTRIBUTES: usize = 128;
/// Bytes of an attribute's text that is read.
pub(crate) const TEXT_BYTES: usize = 256;
