//! Scores: declared, permitted and observed values of the ten factors, and AIVSS arithmetic.
//!
//! A posterior is a fold over evidence. No evidence widens an interval; it never lowers a score.
//! A blocked attempt is evidence of intent, not of harm (OWASP AIVSS v0.8; formulas with their
//! sources in `docs/scoring.md`). This module knows no policy, no store and no clock: declared and
//! permitted values arrive as arguments.

pub mod aivss;
mod beta;
mod factor;
mod posterior;
mod repeats;
mod report;
mod score;
mod session;

pub use beta::{Beta, HALF_LIFE_SESSIONS, PRIOR_STRENGTH};
pub use factor::{FACTOR_SIGNALS, Signal, grade};
pub use posterior::{Posterior, RING_SESSIONS};
pub use report::{AivssScores, FactorSums, Quality, ReportParts, SCORE_SCHEMA, ScoreReport, report};
pub use score::{FactorScore, Sufficiency};
pub use session::{SessionFacts, Source};
