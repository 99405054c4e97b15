//! Pages of lists: `?limit=&after=` in, `{"items","next"}` out.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::ObjectBuilder;

use super::wire::{Text, Written};
use crate::model::page::{Cursor, Listed, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, Page};
use crate::model::{Malformed, Timestamp};

/// How many items a page shall have, as a query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(u16);

impl Written for Limit {
    fn read(text: &str) -> Result<Self, Malformed> {
        match text.parse() {
            Ok(limit @ 1..=PAGE_ITEMS_MAX) => Ok(Self(limit)),
            Ok(_) | Err(_) => Err(Malformed { what: "a limit", why: "must be a number from 1 to 1000" }),
        }
    }
    fn write(&self) -> Cow<'_, str> {
        self.0.to_string().into()
    }
    const NAME: &'static str = "Limit";
    fn describe(schema: ObjectBuilder) -> ObjectBuilder {
        schema.pattern(Some("^[0-9]{1,4}$"))
    }
}

/// The longest cursor that is looked at, in characters.
const CURSOR_CHARS_MAX: usize = 2048;

impl Written for Cursor {
    fn read(text: &str) -> Result<Self, Malformed> {
        const MALFORMED: Malformed = Malformed { what: "a cursor", why: "must be the next of an earlier answer" };
        let octets = (text.len() <= CURSOR_CHARS_MAX).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten().ok_or(MALFORMED)?;
        let plain = String::from_utf8(octets).map_err(|_| MALFORMED)?;
        let (millis, id) = plain.split_once(',').ok_or(MALFORMED)?;
        let at = millis.parse().map(Timestamp::from_millis).map_err(|_| MALFORMED)?;
        if id.is_empty() || id.chars().any(char::is_control) {
            return Err(MALFORMED);
        }
        Ok(Self { at, id: id.to_owned() })
    }
    fn write(&self) -> Cow<'_, str> {
        URL_SAFE_NO_PAD.encode(format!("{},{}", self.at.millis(), self.id)).into()
    }
    const NAME: &'static str = "Cursor";
    fn describe(schema: ObjectBuilder) -> ObjectBuilder {
        schema.max_length(Some(CURSOR_CHARS_MAX))
    }
}

/// A number in the audit trail's chain, as a query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seq(pub u64);

impl Written for Seq {
    fn read(text: &str) -> Result<Self, Malformed> {
        let digits = (1..=18).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.map(Self).ok_or(Malformed { what: "a number", why: "must be a number" })
    }
    fn write(&self) -> Cow<'_, str> {
        self.0.to_string().into()
    }
    const NAME: &'static str = "Seq";
    fn describe(schema: ObjectBuilder) -> ObjectBuilder {
        schema.pattern(Some("^[0-9]{1,18}$"))
    }
}

/// The page two query parameters ask for.
pub fn page(limit: Option<Text<Limit>>, after: Option<Text<Cursor>>) -> Page {
    Page { limit: limit.map_or(PAGE_ITEMS_DEFAULT, |Text(Limit(limit))| limit), after: after.map(|Text(cursor)| cursor) }
}

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The items, newest first.
    pub items: Vec<T>,
    /// The `after` of the next page; null when this was the last.
    pub next: Option<String>,
}

impl<T> List<T> {
    /// Writes every item of a page.
    pub fn of<M>(listed: Listed<M>, write: impl FnMut(M) -> T) -> Self {
        Self { items: listed.items.into_iter().map(write).collect(), next: listed.next.map(|cursor| cursor.write().into_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_limit_is_a_number_from_one_to_a_thousand() {
        for fine in ["1", "100", "1000"] {
            assert!(Limit::read(fine).is_ok(), "{fine}");
        }
        for wrong in ["", "0", "1001", "-1", "many", "99999999999"] {
            assert!(Limit::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_named_means_the_first_hundred() {
        assert_eq!(page(None, None), Page::default());
    }

    #[test]
    fn a_tampered_cursor_is_refused() {
        let encoded = |plain: &str| URL_SAFE_NO_PAD.encode(plain);
        for text in ["", "!", &encoded("1"), &encoded("x,a"), &encoded("1,"), &encoded("1,a\0b"), &"A".repeat(3000)] {
            assert!(Cursor::read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_reads_back_as_it_was_written(millis: i64, id in "[ -~]{1,255}") {
            let cursor = Cursor { at: Timestamp::from_millis(millis), id };
            prop_assert_eq!(Cursor::read(&cursor.write()), Ok(cursor));
        }
    }
}
