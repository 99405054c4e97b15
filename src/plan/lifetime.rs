//! How long a token may live, whatever is said of it.

use crate::model::token::{Lifetime, LifetimeFacts, OverLimit};

/// Whether a token may live as long as it is said to. One of which nobody says when it expires lives as long as it may.
pub fn lifetime(facts: &LifetimeFacts) -> Lifetime {
    let Some(longest) = facts.longest else { return Lifetime::Within };
    let latest = facts.issued_at.plus(longest);
    match (facts.expires_at, facts.over_limit) {
        (Some(expires_at), _) if expires_at <= latest => Lifetime::Within,
        (None, _) | (Some(_), OverLimit::Cap) => Lifetime::Capped(latest),
        (Some(_), OverLimit::Refuse) => Lifetime::Refused,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Timestamp;

    const T: Timestamp = Timestamp::from_seconds(1_800_000_000);

    proptest! {
        #[test]
        fn nothing_that_is_taken_lives_longer_than_it_may(
            longest_s in 1_u64..1000, said_s in prop::option::of(0_u64..2000), over_limit in prop::sample::select(OverLimit::ALL),
        ) {
            let expires_at = said_s.map(|said| T.plus(Duration::from_secs(said)));
            let facts = LifetimeFacts { longest: Some(Duration::from_secs(longest_s)), over_limit, issued_at: T, expires_at };
            let latest = T.plus(Duration::from_secs(longest_s));
            match lifetime(&facts) {
                Lifetime::Within => prop_assert!(expires_at.is_some_and(|at| at <= latest)),
                Lifetime::Capped(at) => {
                    prop_assert_eq!(at, latest);
                    prop_assert!(expires_at.is_none_or(|said| said > at && over_limit == OverLimit::Cap));
                }
                Lifetime::Refused => prop_assert!(over_limit == OverLimit::Refuse && expires_at.is_some_and(|said| said > latest)),
            }
        }

        #[test]
        fn without_a_limit_a_token_lives_as_long_as_it_is_said_to(said_s in prop::option::of(0_u64..2000)) {
            let expires_at = said_s.map(|said| T.plus(Duration::from_secs(said)));
            let facts = LifetimeFacts { longest: None, over_limit: OverLimit::Refuse, issued_at: T, expires_at };
            prop_assert_eq!(lifetime(&facts), Lifetime::Within);
        }
    }
}
