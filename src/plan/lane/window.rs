//! How many attempts at once a receiver bears: halved by a time-out, one more by each success.

/// The present limit of one lane or host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// None as long as nothing but the registered limit counts.
    limit: Option<u16>,
}

impl Window {
    /// Begins with one at a time, as after an absence.
    pub const fn begin() -> Self {
        Self { limit: Some(1) }
    }

    /// Whether nothing but the registered limit counts.
    pub const fn is_whole(self) -> bool {
        self.limit.is_none()
    }

    /// How many more may begin, of `part` in all.
    pub fn room(self, part: u16, in_flight: u16) -> u16 {
        self.of(part).saturating_sub(in_flight)
    }

    fn of(self, part: u16) -> u16 {
        self.limit.map_or(part, |limit| limit.min(part))
    }

    /// An attempt took too long.
    pub fn timed_out(&mut self, part: u16) {
        self.limit = Some((self.of(part) / 2).max(1));
    }

    /// An attempt was a success.
    pub fn succeeded(&mut self, part: u16) {
        self.limit = self.limit.map(|limit| limit.saturating_add(1)).filter(|limit| *limit < part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_comes_back_is_asked_one_two_four_and_eight_at_a_time() {
        let mut window = Window::begin();
        let mut rounds = Vec::new();
        for _ in 0..5 {
            let round = window.room(8, 0);
            rounds.push(round);
            (0..round).for_each(|_| window.succeeded(8));
        }
        assert_eq!(rounds, [1, 2, 4, 8, 8]);
    }

    #[test]
    fn a_time_out_halves_and_a_success_adds_one() {
        let mut window = Window::default();
        window.timed_out(8);
        assert_eq!(window.room(8, 0), 4);
        window.succeeded(8);
        assert_eq!((window.room(8, 0), window.room(8, 3)), (5, 2));
    }

    proptest! {
        #[test]
        fn it_is_never_less_than_one_nor_more_than_registered(part in 1_u16..200, steps in prop::collection::vec(any::<bool>(), 0..60)) {
            let mut window = Window::default();
            for timed_out in steps {
                if timed_out { window.timed_out(part) } else { window.succeeded(part) }
                prop_assert!((1..=part).contains(&window.room(part, 0)));
                prop_assert_eq!(window.room(part, u16::MAX), 0);
                prop_assert_eq!(window.room(0, 0), 0);
            }
        }

        #[test]
        fn successes_alone_restore_all_of_it(part in 1_u16..200) {
            let mut window = Window::begin();
            (0..part).for_each(|_| window.succeeded(part));
            prop_assert_eq!(window, Window::default());
        }
    }
}
