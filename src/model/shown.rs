//! What may stand in a text that is shown to people.

/// Control characters, and what changes the direction of writing or is not seen at all (Unicode TR 36): of two texts that differ in these alone nobody can
/// tell which is which, and one may look like quite another.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Those of them that nobody's name needs. Persian and the languages of India do not go without the two that part and join letters.
pub fn is_unfit_for_names(c: char) -> bool {
    is_unseen(c) && !matches!(c, '\u{200c}' | '\u{200d}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_or_hides_is_unfit_and_the_letters_of_every_language_are_not() {
        for unfit in ['\0', '\n', '\u{7f}', '\u{85}', '\u{ad}', '\u{200b}', '\u{200e}', '\u{202e}', '\u{2066}', '\u{feff}', '\u{e0041}'] {
            assert!(is_unfit_for_names(unfit) && is_unseen(unfit), "{unfit:?}");
        }
        for name in [
            "Wiki & Söhne",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "\u{915}\u{94d}\u{200d}\u{937}",
            "日本",
            "\u{5e9}\u{5dc}\u{5d5}\u{5dd}",
        ] {
            assert!(!name.chars().any(is_unfit_for_names), "{name}");
        }
    }
}
