//! What will be acquired next: what was acquired after the same parameters in the step before.

/// The order in which parameters are acquired, from step to step.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    last: Vec<u32>,
    now: Vec<u32>,
    /// How many of `last` are over, if this step goes as the last one.
    cursor: usize,
}

impl Forecast {
    /// A step begins.
    pub(crate) fn begin(&mut self) {
        std::mem::swap(&mut self.last, &mut self.now);
        self.now.clear();
        self.cursor = 0;
    }

    /// A parameter is acquired.
    pub(crate) fn acquired(&mut self, parameter: u32) {
        self.now.push(parameter);
        // Skipped ones are over; one that was not expected changes nothing.
        if let Some(skipped) = self.last[self.cursor..].iter().position(|p| *p == parameter) {
            self.cursor += skipped + 1;
        }
    }

    /// What comes next, if this step goes as the last one.
    pub(crate) fn next(&self) -> &[u32] {
        &self.last[self.cursor..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_goes_as_the_last_until_it_does_not() {
        let mut forecast = Forecast::default();
        let step = |forecast: &mut Forecast, order: &[u32]| -> Vec<Option<u32>> {
            forecast.begin();
            order
                .iter()
                .map(|p| {
                    forecast.acquired(*p);
                    forecast.next().first().copied()
                })
                .collect()
        };
        assert_eq!(step(&mut forecast, &[0, 1, 2, 1, 0]), [None; 5]);
        assert_eq!(step(&mut forecast, &[0, 1, 2, 1, 0]), [Some(1), Some(2), Some(1), Some(0), None]);
        // 7 is new, 2 is left out.
        assert_eq!(step(&mut forecast, &[0, 7, 1, 1, 0]), [Some(1), Some(1), Some(2), Some(0), None]);
        assert_eq!(step(&mut forecast, &[0, 7, 1, 1, 0]), [Some(7), Some(1), Some(1), Some(0), None]);
    }
}
