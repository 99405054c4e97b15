//! Free text from outside, bounded: never empty, never with characters that control how it is shown.

use std::borrow::Cow;

use utoipa::openapi::schema::ObjectBuilder;

use super::wire::Written;
use crate::model::Malformed;
use crate::model::shown::is_unfit_for_names;

macro_rules! lines {
    ($($(#[$doc:meta])* $name:ident, $max:literal, $why:literal;)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl Written for $name {
            const NAME: &'static str = stringify!($name);
            fn read(text: &str) -> Result<Self, Malformed> {
                match text.chars().take($max + 1).count() {
                    1..=$max if text.chars().any(is_unfit_for_names) => {
                        Err(Malformed { what: "a text", why: "must not contain control characters, nor any that turn the text or are not seen" })
                    }
                    1..=$max => Ok(Self(text.to_owned())),
                    _ => Err(Malformed { what: "a text", why: $why }),
                }
            }
            fn write(&self) -> Cow<'_, str> {
                self.0.as_str().into()
            }
            fn describe(schema: ObjectBuilder) -> ObjectBuilder {
                schema.min_length(Some(1)).max_length(Some($max))
            }
        }
    )* };
}

lines! {
    /// A name or a label.
    Line, 255, "must have 1 to 255 characters";
    /// A sentence or two.
    Note, 1024, "must have 1 to 1024 characters";
    /// The `scope` of a token (RFC 6749 3.3).
    Scope, 4096, "must have 1 to 4096 characters";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_bounded_in_characters_and_has_no_control_characters() {
        assert!(Line::read(&"ä".repeat(255)).is_ok());
        assert!(Note::read(&"ä".repeat(1024)).is_ok());
        assert!(Note::read(&"a".repeat(1025)).is_err());
        for wrong in ["", &"a".repeat(256), "a\0", "a\nb", "\u{85}", "a\u{202e}b", "a\u{200b}"] {
            assert!(Line::read(wrong).is_err(), "{wrong:?}");
        }
    }
}
