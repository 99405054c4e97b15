//! Where in a text something stands.

/// The ends of a text's lines.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    /// Looks the text through once.
    pub(super) fn of_text(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, octet)| *octet == b'\n').map(|(at, _)| at).collect())
    }

    /// The line of an offset, counted from 1.
    pub(super) fn of(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}
