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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::parse_json;
    use crate::surface::hook::Client;

    const RECORDED: [&str; 4] = [
        include_str!("../../../tests/surface/otlp/claude-logs.json"),
        include_str!("../../../tests/surface/otlp/claude-details.json"),
        include_str!("../../../tests/surface/otlp/claude-metrics.json"),
        include_str!("../../../tests/surface/otlp/codex-logs.json"),
    ];

    /// Reads `bytes` as everything that they could be; what is claimed keeps to its bounds. How many claims there are.
    fn judged(bytes: &[u8]) -> usize {
        let Ok(body) = parse_json(bytes) else { return 0 };
        let mut claims = Vec::new();
        if let Ok(walked) = logs(&body) {
            for record in &walked.records {
                claims.extend(Client::ALL.into_iter().filter_map(|client| read(client, record).ok().flatten()));
            }
        }
        if let Ok(walked) = sums(&body, &wanted()) {
            claims.extend(walked.records.iter().filter_map(|record| read_sum(record).ok()));
        }
        for claim in &claims {
            assert!(claim.session.as_str().len() <= crate::model::Limits::NAME_BYTES);
            if let What::Generated(usage) = claim.what {
                assert!(
                    usage.requests <= 1 && usage.tokens_in <= 3_000_000_000 && usage.micro_usd <= 1_000_000_000_000
                );
            }
        }
        claims.len()
    }

    #[test]
    fn what_was_recorded_claims_something() {
        assert_eq!(RECORDED.map(|text| judged(text.as_bytes())), [9, 9, 5, 7]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn no_damage_to_a_recording_makes_the_reader_fail(
            which in 0..RECORDED.len(),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..12),
        ) {
            let mut bytes = RECORDED[which].as_bytes().to_vec();
            for (at, byte, how) in cuts {
                let at = at.index(bytes.len());
                match how {
                    0 => bytes[at] = byte,
                    1 => bytes[at] = b"0123456789\"{}[],:-eE."[usize::from(byte) % 21],
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b"9\"}]0"[usize::from(byte) % 5]),
                }
            }
            judged(&bytes);
        }
    }
}
