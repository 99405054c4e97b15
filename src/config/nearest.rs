//! "Did you mean": what was probably meant by a name that nobody knows.

/// The known name that an unknown one is most like, if it is like any.
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().map(str::to_owned);
    // A table that was forgotten is one mistake, however long its name.
    let distance = |name: &str| if last(name).as_deref() == Some(unknown) { 1 } else { steps(unknown, name) };
    let tolerated = (unknown.chars().count() / 3).max(1);
    known.into_iter().map(|name| (distance(name), name)).filter(|(distance, _)| *distance <= tolerated).min().map(|(_, name)| name)
}

/// How many letters have to be put in, taken out, replaced or swapped with their neighbour to make one name of the other.
fn steps(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let (mut before, mut above): (Vec<usize>, Vec<usize>) = (Vec::new(), (0..=to.len()).collect());
    let mut last = None;
    for (row, letter) in from.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let at = |cells: &[usize], column: usize| cells.get(column).copied().unwrap_or(usize::MAX / 2);
            let replaced = at(&above, column) + usize::from(letter != other);
            let mut best = replaced.min(at(&above, column + 1) + 1).min(at(&line, column) + 1);
            if column > 0 && Some(other) == last && to.get(column - 1) == Some(letter) {
                best = best.min(at(&before, column - 1) + 1);
            }
            line.push(best);
        }
        last = Some(letter);
        (before, above) = (above, line);
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_understood_and_a_stranger_is_not() {
        let known = ["http.listen", "delivery.timeout_ms", "delivery.timeout_max_ms", "log.level", "dev"];
        for (unknown, meant) in [
            ("htpp.listen", Some("http.listen")),
            ("listen", Some("http.listen")),
            ("delivery.timeout", Some("delivery.timeout_ms")),
            ("delivery.tiemout_ms", Some("delivery.timeout_ms")),
            ("log.levels", Some("log.level")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(unknown, known), meant, "{unknown}");
        }
    }

    #[test]
    fn swapping_two_neighbours_is_one_step() {
        assert_eq!((steps("abcd", "abdc"), steps("", "abc"), steps("abc", "abc"), steps("kitten", "sitting")), (1, 3, 0, 3));
    }
}
