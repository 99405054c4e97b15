//! Values of the model as they are written in JSON, queries and paths.
//!
//! Model types do not serialise themselves. [`Text`] does it for them wherever the wire form is a string: it reads by the type's own rule, so a
//! wrong value is refused while the body is parsed and the problem names the member; and it describes itself in the `OpenAPI` document.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::model::access::Role;
use crate::model::alarm::{AlarmKind, AlarmState};
use crate::model::attempt::{Failure, OutcomeClass};
use crate::model::audit::Act;
use crate::model::client::{Claims, OnExpiry, ServerName, TokenTyp};
use crate::model::delivery::{Class, DeliveryKind, DeliveryState, SettledReason};
use crate::model::event::{EventState, ProviderTold};
use crate::model::gap::{GapCause, GapClosedBy};
use crate::model::ids::IDENTIFIER_CHARS_MAX;
use crate::model::issuer::{AccessTokenTyp, Expiry, PublishedAt, RelayToken, UpstreamMode, WhenAway};
use crate::model::key::{KeyOrigin, KeyState, SigningAlg};
use crate::model::provider_logout::{AuthKind, BodyKind, ClientAuth, Method, PresetName};
use crate::model::session::Life;
use crate::model::token::{OverLimit, ReuseScope, Rotate, TokenEventKind, TokenKind};
use crate::model::trigger::Reason;
use crate::model::{
    AlarmId, Alias, ApiTokenId, AuditId, ClientId, CutOffId, DeliveryId, DenialId, Digest, EventId, GapId, Issuer, IssuerId, Jti,
    Malformed, ProviderKey, Sid, Subject, Timestamp, WorkId,
};

/// A type whose wire form is a string.
pub trait Written: Sized {
    /// Reads it.
    fn read(text: &str) -> Result<Self, Malformed>;
    /// Writes it.
    fn write(&self) -> Cow<'_, str>;
    /// What it is called in the `OpenAPI` document.
    const NAME: &'static str;
    /// Describes it.
    fn describe(schema: ObjectBuilder) -> ObjectBuilder;
}

/// A value in its wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads<T>(PhantomData<T>);
        impl<T: Written> Visitor<'_> for Reads<T> {
            type Value = Text<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
                T::read(text).map(Text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Reads(PhantomData))
    }
}

impl<T: Written> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.write())
    }
}

impl<T: Written> PartialSchema for Text<T> {
    fn schema() -> RefOr<Schema> {
        T::describe(ObjectBuilder::new().schema_type(SchemaType::new(Type::String))).into()
    }
}

impl<T: Written> ToSchema for Text<T> {
    fn name() -> Cow<'static, str> {
        T::NAME.into()
    }
}

impl<T> From<T> for Text<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Takes the value out of an optional member.
pub fn value<T>(member: Option<Text<T>>) -> Option<T> {
    member.map(|Text(value)| value)
}

/// A member that may be left out, be null or say something. Needs `#[serde(default)]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Said<T> {
    /// It was left out.
    #[default]
    Nothing,
    /// It was null.
    Null,
    /// It said this.
    Value(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Said<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::Null, Self::Value))
    }
}

macro_rules! written {
    (strings: $($name:ident)*) => { $(
        impl Written for $name {
            fn read(text: &str) -> Result<Self, Malformed> {
                Self::parse(text)
            }
            fn write(&self) -> Cow<'_, str> {
                self.as_str().into()
            }
            const NAME: &'static str = stringify!($name);
            fn describe(schema: ObjectBuilder) -> ObjectBuilder {
                schema.min_length(Some(1)).max_length(Some(IDENTIFIER_CHARS_MAX))
            }
        }
    )* };
    (words: $($name:ident)*) => { $(
        impl Written for $name {
            fn read(text: &str) -> Result<Self, Malformed> {
                Self::parse(text)
            }
            fn write(&self) -> Cow<'_, str> {
                self.as_str().into()
            }
            const NAME: &'static str = stringify!($name);
            fn describe(schema: ObjectBuilder) -> ObjectBuilder {
                schema.enum_values(Some(Self::ALL.iter().map(|word| word.as_str())))
            }
        }
    )* };
    (ids: $($name:ident)*) => { $(
        impl Written for $name {
            fn read(text: &str) -> Result<Self, Malformed> {
                Self::parse(text).ok_or(Malformed { what: "an id", why: "must be one that was given out here" })
            }
            fn write(&self) -> Cow<'_, str> {
                self.as_str().into()
            }
            const NAME: &'static str = stringify!($name);
            fn describe(schema: ObjectBuilder) -> ObjectBuilder {
                schema.pattern(Some("^[0-9A-Z]{26}$"))
            }
        }
    )* };
}

written!(strings: Subject Sid ClientId ProviderKey Alias Jti IssuerId Issuer ServerName);
written!(words: AlarmKind AlarmState AccessTokenTyp WhenAway Rotate ReuseScope OverLimit TokenKind TokenEventKind Role Failure OutcomeClass Act Claims TokenTyp OnExpiry Expiry PublishedAt UpstreamMode RelayToken PresetName BodyKind AuthKind ClientAuth Method ProviderTold DeliveryKind DeliveryState Class SettledReason EventState GapCause GapClosedBy KeyState KeyOrigin SigningAlg Life Reason);
written!(ids: AlarmId EventId DeliveryId ApiTokenId AuditId WorkId CutOffId DenialId GapId);

impl Written for Timestamp {
    fn read(text: &str) -> Result<Self, Malformed> {
        Self::parse(text)
    }
    fn write(&self) -> Cow<'_, str> {
        self.to_string().into()
    }
    const NAME: &'static str = "Timestamp";
    fn describe(schema: ObjectBuilder) -> ObjectBuilder {
        schema.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
    }
}

impl Written for Digest {
    fn read(text: &str) -> Result<Self, Malformed> {
        Self::parse(text)
    }
    fn write(&self) -> Cow<'_, str> {
        self.to_string().into()
    }
    const NAME: &'static str = "Digest";
    fn describe(schema: ObjectBuilder) -> ObjectBuilder {
        schema.pattern(Some("^[A-Za-z0-9_-]{43}$"))
    }
}

impl Written for ipnet::IpNet {
    fn read(text: &str) -> Result<Self, Malformed> {
        // Addresses without a length and host bits that are set are mistakes more often than they are meant.
        let network: Self = text.parse().map_err(|_| BAD_NETWORK)?;
        if network.trunc() == network { Ok(network) } else { Err(BAD_NETWORK) }
    }
    fn write(&self) -> Cow<'_, str> {
        self.to_string().into()
    }
    const NAME: &'static str = "IpNetwork";
    fn describe(schema: ObjectBuilder) -> ObjectBuilder {
        schema.examples(["10.1.0.0/16"])
    }
}

const BAD_NETWORK: Malformed = Malformed { what: "a network", why: "must be an address, a slash and a prefix length, such as 10.1.0.0/16" };

/// Wire forms under names of their own, since the derive macros of the `OpenAPI` document do not see through a generic type.
pub mod text {
    use super::{PartialSchema, RefOr, Schema, Text, ToSchema};
    use crate::model;

    macro_rules! names {
        ($($name:ident = $model:ty;)*) => { $(
            #[doc = concat!("The wire form of [`", stringify!($model), "`].")]
            pub type $name = Text<$model>;
        )*

            /// Every one of them, described.
            pub(in crate::http) fn schemas() -> Vec<(String, RefOr<Schema>)> {
                vec![$((<$name as ToSchema>::name().into_owned(), <$name as PartialSchema>::schema()),)*]
            }
        };
    }

    names! {
        Subject = model::Subject;
        Sid = model::Sid;
        ClientId = model::ClientId;
        ProviderKey = model::ProviderKey;
        Alias = model::Alias;
        Jti = model::Jti;
        IssuerId = model::IssuerId;
        Issuer = model::Issuer;
        Timestamp = model::Timestamp;
        Digest = model::Digest;
        IpNetwork = ipnet::IpNet;
        EventId = model::EventId;
        DeliveryId = model::DeliveryId;
        ApiTokenId = model::ApiTokenId;
        AuditId = model::AuditId;
        WorkId = model::WorkId;
        CutOffId = model::CutOffId;
        DenialId = model::DenialId;
        GapId = model::GapId;
        GapCause = model::gap::GapCause;
        GapClosedBy = model::gap::GapClosedBy;
        AlarmId = model::AlarmId;
        AlarmKind = model::alarm::AlarmKind;
        AlarmState = model::alarm::AlarmState;
        AccessTokenTyp = model::issuer::AccessTokenTyp;
        WhenAway = model::issuer::WhenAway;
        Rotate = model::token::Rotate;
        ReuseScope = model::token::ReuseScope;
        OverLimit = model::token::OverLimit;
        TokenKind = model::token::TokenKind;
        TokenEventKind = model::token::TokenEventKind;
        Role = model::access::Role;
        Failure = model::attempt::Failure;
        OutcomeClass = model::attempt::OutcomeClass;
        Act = model::audit::Act;
        Claims = model::client::Claims;
        OnExpiry = model::client::OnExpiry;
        Expiry = model::issuer::Expiry;
        PublishedAt = model::issuer::PublishedAt;
        UpstreamMode = model::issuer::UpstreamMode;
        RelayToken = model::issuer::RelayToken;
        PresetName = model::provider_logout::PresetName;
        BodyKind = model::provider_logout::BodyKind;
        AuthKind = model::provider_logout::AuthKind;
        ClientAuth = model::provider_logout::ClientAuth;
        Method = model::provider_logout::Method;
        ProviderTold = model::event::ProviderTold;
        ServerName = model::client::ServerName;
        TokenTyp = model::client::TokenTyp;
        DeliveryKind = model::delivery::DeliveryKind;
        DeliveryState = model::delivery::DeliveryState;
        Class = model::delivery::Class;
        SettledReason = model::delivery::SettledReason;
        EventState = model::event::EventState;
        KeyState = model::key::KeyState;
        KeyOrigin = model::key::KeyOrigin;
        SigningAlg = model::key::SigningAlg;
        Life = model::session::Life;
        Reason = model::trigger::Reason;
        Limit = crate::http::page::Limit;
        Seq = crate::http::page::Seq;
        Line = crate::http::line::Line;
        Note = crate::http::line::Note;
        Scope = crate::http::line::Scope;
        Cursor = model::page::Cursor;
    }
}
