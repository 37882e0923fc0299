//! The one place where machine code that this program did not just compile is taken from a file.

use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::Verified;

/// Loads compiled code whose seal has been verified.
///
/// # Errors
/// The file cannot be read, or it was made by another version or for another machine.
pub(crate) fn compiled(engine: &Engine, file: &Verified) -> wasmtime::Result<Component> {
    let path: &Path = file.path();
    #[expect(
        unsafe_code,
        reason = "a compiled component is machine code: loading one that Wasmtime did not make is arbitrary code \
                  execution. `Verified` is made only after the seal of this installation's own key held over the \
                  whole file, which lies in a folder that only this user can write"
    )]
    // SAFETY: see the reason above; the bytes are the output of `Component::serialize` of this installation.
    unsafe {
        Component::deserialize_file(engine, path)
    }
}
