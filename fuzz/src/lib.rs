//! The decoders, as the targets reach them: the files of the sandbox that read hostile bytes, compiled here a second
//! time without the engine, and the promises that `src/sandbox/hostile.rs` holds them to.

/// The paths by which those files name their neighbours in the library.
use weir::{model, pep};

mod sandbox;
mod vault;

pub use vault::kept;

macro_rules! held {
    ($($name:ident),*) => {
        $(
            /// See the function of this name in `src/sandbox/hostile.rs`.
            pub fn $name(bytes: &[u8]) {
                sandbox::hostile::$name(bytes);
            }
        )*
    };
}

held!(conversation, frames, tapes, values);

/// Strict JSON, the form of every argument: what was read means one thing.
pub fn json(bytes: &[u8]) {
    let Ok(value) = model::parse_json(bytes) else { return };
    let again = model::parse_json(value.to_string().as_bytes()).expect("what was written is read");
    assert_eq!(again, value);
    assert_eq!(model::canonical(&again), model::canonical(&value));
}

/// Policies: faults, or a policy that can be checked.
pub fn policy(bytes: &[u8]) {
    match weir::policy::parse(bytes, "p") {
        Ok(policy) => drop(weir::policy::check(&policy)),
        Err(faults) => assert!(!faults.0.is_empty(), "refused without a word"),
    }
}
