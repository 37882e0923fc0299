//! Decimal text into whole numbers, without a float in between.

/// Digits of a number that are read; a sum of money or tokens has fewer.
const DIGITS: usize = 40;
/// Largest exponent, either way.
const EXPONENT: i32 = 30;
/// What a client may say that anything cost or used; more is nonsense.
const MOST: u128 = 1_000_000_000_000;

/// `text` (`0.0014`, `14e-4`, `7`) times ten to the power of `places`, rounded half up; `None` for what is no such
/// number, is negative, or is beyond a million millions.
pub(super) fn scaled(text: &str, places: i32) -> Option<u64> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or(Some((text, 0)), |(mantissa, exponent)| {
        let exponent: i32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
        Some((mantissa, exponent))
    })?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let all = [whole, fraction];
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !all.iter().all(digits) || whole.len() + fraction.len() > DIGITS || exponent.abs() > EXPONENT {
        return None;
    }
    let digits = [whole, fraction].concat();
    let digits = digits.trim_start_matches('0');
    let fraction = i32::try_from(fraction.len()).ok()?;
    rounded(if digits.is_empty() { "0" } else { digits }, exponent - fraction + places)
}

/// `digits` times ten to the power of `shift`.
fn rounded(digits: &str, shift: i32) -> Option<u64> {
    let cut = usize::try_from(shift.min(0).unsigned_abs()).ok()?;
    let kept = digits.len().saturating_sub(cut);
    // Cut to nothing: only where exactly all digits go can the first of them still round up.
    let next = if cut > digits.len() { 0 } else { digits.as_bytes().get(kept).map_or(0, |digit| digit - b'0') };
    let head = if kept == 0 { 0 } else { digits.get(..kept)?.parse::<u128>().ok()? };
    let value = head + u128::from(cut > 0 && next >= 5);
    let value = value.checked_mul(10_u128.checked_pow(u32::try_from(shift.max(0)).ok()?)?)?;
    u64::try_from(value).ok().filter(|value| u128::from(*value) <= MOST)
}

/// US dollars as micro-USD.
pub(super) fn micro_usd(text: &str) -> Option<u64> {
    scaled(text, 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_to_the_micro_dollar() {
        for (text, micro) in [
            ("0.0014", 1_400),
            ("14e-4", 1_400),
            ("1.4E-3", 1_400),
            ("0.20475", 204_750),
            ("0", 0),
            ("0.0", 0),
            ("7", 7_000_000),
            ("0.0000005", 1),
            ("0.00000049999999", 0),
            ("4e-7", 0),
            ("9e-7", 1),
            ("5e-8", 0),
            ("0.007000000000000001", 7_000),
            ("0.30000000000000004", 300_000),
            ("1e6", 1_000_000_000_000),
        ] {
            assert_eq!(micro_usd(text), Some(micro), "{text}");
        }
        for text in [
            "", "-1", "+1", ".5", "5.", "1e", "e3", "1e31", "0x1", "NaN", "inf", "1_0", " 1", "1.2.3", "1000001",
            "1e-99",
        ] {
            assert_eq!(micro_usd(text), None, "{text}");
        }
        assert_eq!(micro_usd(&"9".repeat(41)), None);
        assert_eq!((scaled("500", 0), scaled("2.653", 0)), (Some(500), Some(3)));
    }
}
