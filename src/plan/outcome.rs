//! What came back, sorted into what it means.
//!
//! Owns the table from HTTP statuses and failures to outcome classes. Never decides what follows from a class: that is `settle`.

use crate::model::attempt::{Failure, Outcome, OutcomeClass};

/// Sorts an outcome. `retry_statuses` are those by which this client means passing troubles; a success stays a success even if listed.
pub fn classify(outcome: &Outcome, retry_statuses: &[u16]) -> OutcomeClass {
    match outcome {
        Outcome::Answered { status, .. } => of_status(*status, retry_statuses),
        Outcome::Failed(failure) => of_failure(*failure),
    }
}

fn of_status(status: u16, retry_statuses: &[u16]) -> OutcomeClass {
    match status {
        // BCL 2.8 names 200 and allows for frameworks that turn an empty 200 into 204.
        200 | 204 => OutcomeClass::Delivered,
        201..=299 => OutcomeClass::DeliveredOddly,
        // Where a list contradicted a 2xx, a client would log the same person out for three days.
        _ if retry_statuses.contains(&status) => OutcomeClass::Recoverable,
        300..=399 => OutcomeClass::Redirected,
        400 => OutcomeClass::Refused,
        410 => OutcomeClass::Gone,
        // RFC 9110 15: a status outside 100 to 599 is to be treated as a 5xx.
        408 | 425 | 429 | 500.. | 0..=99 => OutcomeClass::Recoverable,
        // An interim status as the last word, 101 above all, comes from something that is not a logout endpoint, as does an odd 4xx.
        100..=199 | 401..=499 => OutcomeClass::ConfigFault,
    }
}

const fn of_failure(failure: Failure) -> OutcomeClass {
    match failure {
        // `Broken` may have been handled. Logging out twice does no harm, not logging out does, so it is tried again like the others.
        Failure::Dns | Failure::Connect | Failure::Tls | Failure::Timeout | Failure::Broken | Failure::Garbled => OutcomeClass::Recoverable,
        Failure::Blocked => OutcomeClass::Blocked,
        Failure::Ours => OutcomeClass::Ours,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class_of(status: u16) -> OutcomeClass {
        classify(&Outcome::Answered { status, retry_after: None }, &[])
    }

    #[test]
    fn every_named_status_has_the_class_the_policy_gives_it() {
        let table: [(&[u16], OutcomeClass); 7] = [
            (&[200, 204], OutcomeClass::Delivered),
            (&[201, 202, 206, 299], OutcomeClass::DeliveredOddly),
            (&[300, 301, 302, 303, 304, 307, 308, 399], OutcomeClass::Redirected),
            (&[400], OutcomeClass::Refused),
            (&[401, 403, 404, 405, 406, 411, 413, 415, 422, 409, 418, 451, 499, 100, 101, 199], OutcomeClass::ConfigFault),
            (&[410], OutcomeClass::Gone),
            (&[408, 425, 429, 500, 501, 502, 503, 504, 599, 0, 99, 600, 999, u16::MAX], OutcomeClass::Recoverable),
        ];
        for (statuses, class) in table {
            for status in statuses {
                assert_eq!(class_of(*status), class, "{status}");
            }
        }
    }

    #[test]
    fn only_a_blocked_address_and_our_own_faults_are_not_the_networks() {
        for failure in Failure::ALL {
            let expected = match failure {
                Failure::Blocked => OutcomeClass::Blocked,
                Failure::Ours => OutcomeClass::Ours,
                Failure::Dns | Failure::Connect | Failure::Tls | Failure::Timeout | Failure::Broken | Failure::Garbled => {
                    OutcomeClass::Recoverable
                }
            };
            assert_eq!(classify(&Outcome::Failed(*failure), &[]), expected, "{failure}");
        }
    }

    proptest! {
        #[test]
        fn a_2xx_and_nothing_else_is_a_delivery(status: u16, listed in prop::collection::vec(any::<u16>(), 0..4)) {
            let mut listed = listed;
            listed.push(status);
            for retry_statuses in [&[][..], &listed[..]] {
                let class = classify(&Outcome::Answered { status, retry_after: None }, retry_statuses);
                let delivered = matches!(class, OutcomeClass::Delivered | OutcomeClass::DeliveredOddly);
                prop_assert_eq!(delivered, (200..300).contains(&status));
            }
        }

        #[test]
        fn a_status_the_client_lists_is_a_passing_trouble(status in prop_oneof![0_u16..200, 300..=u16::MAX]) {
            prop_assert_eq!(classify(&Outcome::Answered { status, retry_after: None }, &[status]), OutcomeClass::Recoverable);
        }

        #[test]
        fn a_status_the_client_does_not_list_keeps_its_class(status: u16, other: u16) {
            prop_assume!(status != other);
            prop_assert_eq!(classify(&Outcome::Answered { status, retry_after: None }, &[other]), class_of(status));
        }
    }
}
