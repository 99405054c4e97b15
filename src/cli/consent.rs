//! Asking a person before something is done to many.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use super::Error;

/// Goes on when the person at the terminal types what is asked for; refuses where there is nobody to ask.
pub(super) fn consent(what: &str, word: &str) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() {
        return Err(Error::misuse(format!("{what}, and there is nobody here to ask: --yes does it without asking")));
    }
    let mut terminal = std::io::stderr().lock();
    write!(terminal, "{what}\n\nType {word} to go on, anything else to leave it: ")?;
    terminal.flush()?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    if agrees(&typed, word) { Ok(()) } else { Err(Error::Declined) }
}

fn agrees(typed: &str, word: &str) -> bool {
    typed.trim() == word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_word_is_a_yes() {
        assert!(agrees(" 12\r\n", "12"));
        for other in ["", "\n", "y\n", "yes\n", "1\n", "123\n"] {
            assert!(!agrees(other, "12"), "{other:?}");
        }
    }
}
