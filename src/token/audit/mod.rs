//! The audit trail as something one can check without this server: records, their chain, what is signed over it, and the check itself.
//!
//! Owns the canonical form of a record, the chain's arithmetic, the shape of heads, checkpoints and receipts, what this server must find to be its own before it
//! signs more, and what a trail must be to be whole. The server seals with it and the command line verifies with it, so that the two cannot understand it
//! differently.
//!
//! Of every text in a record that may name a person (its `actor`, its `remote`, all texts of its `detail`) the digest holds a salted digest alone. Who erases
//! the text and its salt leaves a record that still verifies and says that something was erased; without the salt nobody can try names.

mod record;
mod signed;
mod standing;
mod trail;

pub use record::{Unsound, digest_of, erase, first_broken, genesis, is_ours, link, next_in_chain, proof_of, written};
pub use signed::{
    Before, CHECKPOINT_TYP, HEAD_TYP, Misread, RECEIPT_TYP, SignedCheckpoint, SignedHead, sign_checkpoint, sign_head, sign_receipt,
    verify_receipt,
};
pub use standing::{Shaken, Standing, Successor, is_own_key, own_keys, standing, stored_head};
pub use trail::{Broken, Line, Report, Trail, Why};
