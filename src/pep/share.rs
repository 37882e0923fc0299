//! The arithmetic of a budget that several gates share, alone: how much a gate asks for, what it is given, and what
//! it gives back. The gate uses it, the database repeats `granted` in SQL, and the model in the tests explores it.

/// What is given out of `room` to a gate that needs `least` at once and would take `most` (at least `least`).
///
/// Nothing when `least` does not fit. Beyond `least` never more than half of what is left: the nearer the cap, the less
/// lies unused at one gate while another one has to deny.
#[must_use]
pub const fn granted(room: u64, least: u64, most: u64) -> u64 {
    if room < least {
        return 0;
    }
    let half = room / 2;
    let most = if most > least { most } else { least };
    let fair = if half > least { half } else { least };
    if most < fair { most } else { fair }
}

/// What a gate with `unused` allowance gives back: nothing up to `lease`; beyond it all but half a lease, so that the next
/// calls neither return nor draw. A lease of 0 keeps nothing.
#[must_use]
pub const fn excess(unused: u64, lease: u64) -> u64 {
    if unused > lease { unused - lease / 2 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_given_or_nothing() {
        assert_eq!(granted(4, 5, 100), 0);
        assert_eq!(granted(5, 5, 100), 5);
        assert_eq!(granted(100, 5, 20), 20);
        assert_eq!(granted(30, 5, 20), 15, "never more than half beyond what is needed");
        assert_eq!(granted(u64::MAX, 7, 0), 7);
        assert_eq!(granted(10, 0, 0), 0);
    }

    #[test]
    fn at_most_a_lease_is_kept() {
        for lease in [0, 1, 2, 7, 100] {
            for unused in 0..250 {
                let kept = unused - excess(unused, lease);
                assert!(kept <= lease, "{kept} of {unused} kept with a lease of {lease}");
                assert!(unused > lease || kept == unused);
            }
        }
    }
}
