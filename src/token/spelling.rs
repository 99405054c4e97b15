//! The second way of writing a token that ECDSA signed.
//!
//! A signature (r, s) is as good as (r, n - s), for whoever checks it as the standards say (FIPS 186-5 6.4), and nobody needs a key to make one of the
//! other. A token that is known by the digest of its octets is therefore looked for by both.

use base64::Engine as _;

use super::{BASE64URL, json};

/// The order of P-256 (FIPS 186-4 D.1.2.3).
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17,
    0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];
/// The order of P-384 (FIPS 186-4 D.1.2.4).
const P384_ORDER: [u8; 48] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xc7, 0x63, 0x4d, 0x81, 0xf4, 0x37, 0x2d, 0xdf, 0x58, 0x1a, 0x0d, 0xb2, 0x48, 0xb0, 0xa7, 0x7a, 0xec, 0xec, 0x19, 0x6a,
    0xcc, 0xc5, 0x29, 0x73,
];

/// The same token with the other signature; none where its algorithm has one for each token.
pub fn other_spelling(token: &str) -> Option<String> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, _) = signed.split_once('.')?;
    let header = json::object(&BASE64URL.decode(header).ok()?)?;
    let order: &[u8] = match header.get("alg")?.as_str()? {
        "ES256" => &P256_ORDER,
        "ES384" => &P384_ORDER,
        _ => return None,
    };
    let signature = BASE64URL.decode(signature).ok().filter(|octets| octets.len() == 2 * order.len())?;
    let (r, s) = signature.split_at(order.len());
    let other = [r, &minus(order, s)?].concat();
    Some(format!("{signed}.{}", BASE64URL.encode(other)))
}

/// A big-endian difference; none where it would be below zero.
fn minus(from: &[u8], what: &[u8]) -> Option<Vec<u8>> {
    let mut borrow = false;
    let mut digits: Vec<u8> = from
        .iter()
        .zip(what)
        .rev()
        .map(|(from, what)| {
            let (once, under) = from.overflowing_sub(*what);
            let (digit, again) = once.overflowing_sub(u8::from(borrow));
            borrow = under || again;
            digit
        })
        .collect();
    digits.reverse();
    (!borrow).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(alg: &str, signature: &[u8]) -> String {
        let header = BASE64URL.encode(format!(r#"{{"alg":"{alg}"}}"#));
        format!("{header}.e30.{}", BASE64URL.encode(signature))
    }

    #[test]
    fn the_other_spelling_of_the_other_spelling_is_the_first() {
        for (alg, octets) in [("ES256", 64), ("ES384", 96)] {
            let first = token(alg, &(1..=octets).collect::<Vec<u8>>());
            let other = other_spelling(&first).unwrap();
            assert_ne!(first, other);
            assert_eq!(other_spelling(&other).unwrap(), first);
        }
    }

    #[test]
    fn what_has_one_spelling_has_no_other() {
        for text in ["opaque", "a.b.c", &token("RS256", &[1; 64]), &token("ES256", &[1; 63]), &token("ES256", &[0xff; 64]), ""] {
            assert_eq!(other_spelling(text), None, "{text}");
        }
    }
}
