//! Waiting for an order to go round: one loop for the office and for a gate that was given an order.
//!
//! An order is round when each gate has followed it or has no standing any more. Nothing is decided here.

use std::thread;
use std::time::{Duration, Instant};

use super::CHANNEL;
use super::link::{Link, Param};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Rings the gates and waits, on `lane`, until none of them may accept what order `number` forbids; `margin_ms` is what a
/// gate's clock may lag behind, `longest` how long a standing lasts at most. Gives how long that took.
///
/// # Errors
/// A sentence, after three times `longest`: the order stands, and is followed by each gate in turn.
pub(super) fn go_round(
    link: &Link,
    lane: usize,
    number: i64,
    margin_ms: i64,
    longest: Duration,
) -> Result<Duration, String> {
    let began = Instant::now();
    // Only to be quick about it: a heartbeat would find the order too.
    let _ = link.script(format!("NOTIFY {CHANNEL}"));
    loop {
        let params = vec![Param::Whole(number), Param::Whole(margin_ms)];
        let waiting = link.query(lane, "SELECT weir.waiting_for($1, $2)", params);
        let late = began.elapsed() > longest * 3;
        match waiting {
            Ok(rows) if rows.is_empty() => return Ok(began.elapsed()),
            Ok(rows) if late => {
                let names: Vec<String> = rows.iter().filter_map(|row| row.try_get(0).ok()).collect();
                return Err(format!("order {number} stands; still waiting for {}", names.join(", ")));
            }
            Err(fault) if late => {
                return Err(format!(
                    "order {number} stands, and whether every gate has followed it is not known: {fault}"
                ));
            }
            Ok(_) | Err(_) => thread::sleep(PAUSE),
        }
    }
}
