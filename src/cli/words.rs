//! Closed sets of words as arguments: each is told in the help and completed by the shell.

use clap::builder::{PossibleValue, PossibleValuesParser};

use crate::model::alarm::{AlarmKind, AlarmState};
use crate::model::delivery::DeliveryState;
use crate::model::event::EventState;
use crate::model::session::Life;
use crate::model::trigger::{Gravity, Reason};
use crate::model::{ClientId, IssuerId, Malformed};

pub(super) fn issuer_id(text: &str) -> Result<IssuerId, Malformed> {
    IssuerId::parse(text)
}

pub(super) fn client_id(text: &str) -> Result<ClientId, Malformed> {
    ClientId::parse(text)
}

/// The states of deliveries.
pub(super) fn delivery_states() -> PossibleValuesParser {
    PossibleValuesParser::new(DeliveryState::ALL.iter().map(|state| state.as_str()))
}

/// The states of logouts.
pub(super) fn logout_states() -> PossibleValuesParser {
    PossibleValuesParser::new(EventState::ALL.iter().map(|state| state.as_str()))
}

/// The states of sessions.
pub(super) fn session_states() -> PossibleValuesParser {
    PossibleValuesParser::new(Life::ALL.iter().map(|state| state.as_str()))
}

/// The kinds of alarms.
pub(super) fn alarm_kinds() -> PossibleValuesParser {
    PossibleValuesParser::new(AlarmKind::ALL.iter().map(|kind| kind.as_str()))
}

/// The states of alarms.
pub(super) fn alarm_states() -> PossibleValuesParser {
    PossibleValuesParser::new(AlarmState::ALL.iter().map(|state| state.as_str()))
}

/// The reasons of logouts, each with what it does.
pub(super) fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.iter().map(|reason| PossibleValue::new(reason.as_str()).help(effect(*reason))))
}

/// What a reason does, beside saying why.
const fn effect(reason: Reason) -> &'static str {
    match (reason, reason.gravity()) {
        (Reason::Compromise, _) => {
            "goes first, ends offline access too, wins against a login of the same second, is sent even where it may end a newer login, and \
             tells again whom earlier logouts gave up"
        }
        (Reason::PasswordChanged, _) => "ends offline access too, and tells again whom earlier logouts gave up",
        (Reason::Admin, _) => "spares offline access, unless --revoke-offline-access",
        (_, Gravity::Compromise) => "as compromise",
        (_, Gravity::Security) => "as password_changed",
        (_, Gravity::Plain) => "as admin",
    }
}
