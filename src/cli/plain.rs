//! What the server says, made harmless for a terminal.
//!
//! A person's name, a note or a client's answer may hold anything, also what moves a cursor, sets a title or turns a line around.

use crate::model::shown::is_unseen;

/// The text without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !is_unseen(*c)).collect()
}

/// At most so many characters of the text.
pub(super) fn shortened(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// The same JSON with what a terminal would obey escaped. Outside of strings JSON has no such characters but white space (RFC 8259 2).
pub(super) fn plain_json(json: &str) -> String {
    let mut units = [0; 2];
    json.chars().fold(String::with_capacity(json.len()), |mut written, c| {
        match is_unseen(c) && !matches!(c, '\n' | '\r' | '\t') {
            true => written.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}"))),
            false => written.push(c),
        }
        written
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        assert_eq!(plain("a\u{1b}[2J\u{7}b\u{9b}c\r\n\u{202e}d\u{7f}é\u{ad}\u{e0041}"), "a[2Jbcdé");
        assert_eq!(shortened("ééé", 2), "éé…");
        assert_eq!(shortened("ééé", 3), "ééé");
    }

    proptest! {
        #[test]
        fn json_says_the_same_afterwards_and_holds_nothing_that_is_unseen(text in any::<String>(), hidden in "[\u{7f}-\u{9f}\u{200b}-\u{202e}\u{feff}]{0,4}") {
            let value = json!({ "text": format!("{text}{hidden}") });
            for written in [value.to_string(), format!("{value:#}")] {
                let written = plain_json(&written);
                prop_assert!(!written.chars().any(|c| is_unseen(c) && c != '\n'));
                prop_assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), value.clone());
            }
        }
    }
}
