//! Pages of lists: newest first, by (`created_at`, id).

use super::Timestamp;

/// The largest page.
pub const PAGE_ITEMS_MAX: u16 = 1000;
/// The page a caller gets that names no size.
pub const PAGE_ITEMS_DEFAULT: u16 = 100;

/// Which part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items at most, 1 to 1,000.
    pub limit: u16,
    /// Everything older than this.
    pub after: Option<Cursor>,
}

impl Default for Page {
    fn default() -> Self {
        Self { limit: PAGE_ITEMS_DEFAULT, after: None }
    }
}

/// A position in a list: the last item a caller has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Its time.
    pub at: Timestamp,
    /// Its id, or another unique name, to break ties.
    pub id: String,
}

/// One page.
#[derive(Clone, Debug)]
pub struct Listed<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where to go on, if there is more.
    pub next: Option<Cursor>,
}
