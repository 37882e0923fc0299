//! The Beta distribution of one factor: prior out of a declared value, evidence, quantiles.
//!
//! Prior `Beta(m*d + 1/2, m*(1-d) + 1/2)`: `m` pseudo-sessions of a declared value on top of Jeffreys'
//! 1/2, so that a declared 0 or 1 is not dogma. Quantiles come from `statrs`; nothing numeric is
//! written by hand but sums and products.

use serde::Serialize;
use statrs::distribution::ContinuousCDF as _;

use crate::model::Level;

/// Pseudo-sessions that a declared value of a directory listing weighs (its prior effective sample
/// size). Four: a listing is an estimate out of a description, soon outweighed by what is seen.
pub const PRIOR_STRENGTH: f64 = 4.0;

/// After how many voting sessions a vote weighs half.
pub const HALF_LIFE_SESSIONS: u32 = 100;

/// `2^(-1/100)`: the weight of a vote from one session to the next. A literal, so that a fold is the
/// same on every machine, bit for bit.
pub(super) const RETENTION: f64 = 0.993_092_495_437_035_9;

/// Normal quantile of a two-sided 95 % interval.
pub(super) const Z_95: f64 = 1.959_963_984_540_054;

/// A Beta distribution by its two shapes, both above zero.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Beta {
    /// Weight of the factor's presence.
    pub a: f64,
    /// Weight of its absence.
    pub b: f64,
}

impl Beta {
    /// The prior of a declared level with `strength` pseudo-sessions; Jeffreys' without one.
    #[must_use]
    pub fn prior(declared: Option<Level>, strength: f64) -> Self {
        let (a, b) = declared.map_or((0.0, 0.0), |level| {
            let d = level.fraction();
            (strength * d, strength * (1.0 - d))
        });
        Self { a: a + 0.5, b: b + 0.5 }
    }

    /// The posterior after `present` and `absent` weighted votes.
    #[must_use]
    pub const fn after(self, present: f64, absent: f64) -> Self {
        Self { a: self.a + present, b: self.b + absent }
    }

    /// The mean.
    #[must_use]
    pub fn mean(self) -> f64 {
        self.a / (self.a + self.b)
    }

    /// The variance.
    #[must_use]
    pub fn variance(self) -> f64 {
        let total = self.a + self.b;
        self.a * self.b / (total * total * (total + 1.0))
    }

    /// The 95 % equal-tailed interval; everything when the shapes are no distribution.
    #[must_use]
    pub fn interval(self) -> (f64, f64) {
        statrs::distribution::Beta::new(self.a, self.b)
            .ok()
            .and_then(|beta| Some((beta.try_inverse_cdf(0.025).ok()?, beta.try_inverse_cdf(0.975).ok()?)))
            .filter(|(low, high)| low.is_finite() && high.is_finite() && low <= high)
            .map_or((0.0, 1.0), |(low, high)| (low.clamp(0.0, 1.0), high.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64, within: f64) {
        assert!((left - right).abs() < within, "{left} is not {right}");
    }

    #[test]
    fn quantiles_are_the_published_ones() {
        let golden = [
            (7.5, 3.5, 0.394_182, 0.907_305),
            (7.5, 33.5, 0.081_854, 0.313_172),
            (37.5, 3.5, 0.813_186, 0.978_423),
            (28.5, 12.5, 0.547_842, 0.824_380),
            (2.5, 8.5, 0.044_059, 0.502_774),
            (14.5, 26.5, 0.216_721, 0.504_122),
        ];
        for (a, b, low, high) in golden {
            let found = Beta { a, b }.interval();
            close(found.0, low, 1e-6);
            close(found.1, high, 1e-6);
        }
    }

    #[test]
    fn a_prior_of_ten_moves_as_the_worked_example_says() {
        let prior = Beta::prior(Level::from_hundredths(70), 10.0);
        close(prior.mean(), 0.682, 5e-4);
        close(prior.after(0.0, 30.0).mean(), 0.183, 5e-4);
        close(prior.after(30.0, 0.0).mean(), 0.915, 5e-4);
        close(prior.after(21.0, 9.0).mean(), 0.695, 5e-4);
    }

    #[test]
    fn retention_halves_in_a_half_life() {
        close((0..HALF_LIFE_SESSIONS).fold(1.0, |weight, _| weight * RETENTION), 0.5, 1e-12);
        close(1.0 / (1.0 - RETENTION), 144.8, 0.05);
    }

    #[test]
    fn quantiles_are_ordered_and_bracket_the_cdf_on_the_whole_grid_of_use() {
        for declared in (0..=100).step_by(10) {
            for present in [0.0, 0.5, 1.0, 7.3, 60.0, 144.7] {
                for absent in [0.0, 0.5, 1.0, 7.3, 60.0, 144.7] {
                    let beta = Beta::prior(Level::from_hundredths(declared), PRIOR_STRENGTH).after(present, absent);
                    let (low, high) = beta.interval();
                    assert!(0.0 <= low && low < high && high <= 1.0, "{beta:?}: {low} {high}");
                    let cdf = statrs::distribution::Beta::new(beta.a, beta.b).unwrap();
                    close(cdf.cdf(low), 0.025, 1e-6);
                    close(cdf.cdf(high), 0.975, 1e-6);
                }
            }
        }
    }
}
