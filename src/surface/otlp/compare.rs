//! What a client reports of its generations against what the gate metered.
//!
//! The gate settles a generation before the client has its last event, so that nothing may be reported which is not metered
//! by then. Money is shown and judged by nobody: the client's prices are its own.

use super::Usage;
use crate::pep::Meter;

/// Tokens that may be reported beyond what was metered before it is an alarm; with [`PERCENT`], the larger counts.
const TOKENS: u64 = 1_000;
/// The same in hundredths of what was metered.
const PERCENT: u64 = 1;

/// What is reported and was not metered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Excess {
    /// Generations.
    pub requests: u64,
    /// Tokens read.
    pub tokens_in: u64,
    /// Tokens written.
    pub tokens_out: u64,
}

impl Excess {
    /// True when it is more than `other` in anything.
    pub const fn exceeds(&self, other: &Self) -> bool {
        self.requests > other.requests || self.tokens_in > other.tokens_in || self.tokens_out > other.tokens_out
    }
}

/// What `reported` has beyond `metered`.
pub(crate) const fn excess(reported: &Usage, metered: &Meter) -> Excess {
    Excess {
        requests: reported.requests.saturating_sub(metered.requests),
        tokens_in: reported.tokens_in.saturating_sub(metered.tokens_in),
        tokens_out: reported.tokens_out.saturating_sub(metered.tokens_out),
    }
}

/// Whether generations went past the gate: one more request than it metered, or tokens beyond what counting can differ by.
pub(crate) fn is_past(excess: &Excess, metered: &Meter) -> bool {
    let beyond = |excess: u64, metered: u64| excess > TOKENS.max(metered / 100 * PERCENT);
    excess.requests > 0 || beyond(excess.tokens_in, metered.tokens_in) || beyond(excess.tokens_out, metered.tokens_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_or_a_hundredth_of_the_tokens_is_past_the_gate() {
        let metered = Meter { requests: 10, unknown: 0, tokens_in: 1_000_000, tokens_out: 5_000, micro_usd: 7 };
        let past = |requests, tokens_in, tokens_out| {
            let reported = Usage { requests, tokens_in, tokens_out, micro_usd: u64::MAX, unpriced: 0 };
            is_past(&excess(&reported, &metered), &metered)
        };
        assert!(!past(10, 1_000_000, 5_000) && !past(0, 0, 0) && !past(10, 1_010_000, 6_000));
        assert!(past(11, 0, 0) && past(10, 1_010_001, 5_000) && past(10, 0, 6_001));
        assert!(is_past(&Excess { requests: 1, ..Excess::default() }, &Meter::default()));
        assert!(Excess { tokens_in: 2, ..Excess::default() }.exceeds(&Excess {
            requests: 9,
            tokens_in: 1,
            tokens_out: 9
        }));
    }
}
