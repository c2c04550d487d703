//! Numbers of one thing, measured again and again.

use std::time::Duration;

/// Measurements in the order they were taken.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds a time, in milliseconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1000.0);
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value that half of the samples do not exceed.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value that nine in ten samples do not exceed.
    pub fn p90(&self) -> f64 {
        self.quantile(0.9)
    }

    /// The nearest-rank quantile; not a number if nothing was measured.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        // Both casts are exact: a share of a count of samples.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::Samples;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut samples = Samples::default();
        assert!(samples.median().is_nan());
        for value in [9.0, 1.0, 5.0, 3.0, 7.0] {
            samples.push(value);
        }
        assert_eq!((samples.median(), samples.p90()), (5.0, 9.0));
    }
}
