//! Interception surfaces: where calls come in and answers go out.
//!
//! A surface turns a wire message into a [`crate::model::Call`], gives it to the gate and encodes the
//! answer. It decides nothing: identity comes from its configuration, everything else from the gate.
//! They are routes of the HTTP sidecar of `docs/protocol.md`; `hook` is the form of one of them.

mod card;
mod desk;
pub mod hook;
mod http;
mod otlp;
mod secret;

pub use crate::model::{Secret, SecretFault};
pub use card::{Asked, Tranche};
pub use desk::{Answered, Desk};
pub use http::{Addresses, Config, ServeFault, Shutdown, Sidecar, Stop, openapi, serve};

/// Locks `mutex`; a thread that panicked while it held the lock does not make the data unusable,
/// because every critical section of this module leaves it whole between statements.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `text` with everything that could move a cursor, hide or reorder text made visible as `\u{…}`.
pub(crate) fn visible(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= max {
            shown.push('…');
            break;
        }
        if hides(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// True for a character that changes how its neighbours look, or that nobody sees.
fn hides(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}')
        || matches!(c, '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}
