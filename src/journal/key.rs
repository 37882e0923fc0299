//! The signing key beside the store: made once, private, refused when others could read it.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::folder;
use crate::audit::{Key, PublicKey};

pub(super) const SECRET: &str = "signing.key";
pub(super) const PUBLIC: &str = "signing.pub";

/// Loads the key of the store in `dir`, or makes one when there is none: `signing.key` (the seed,
/// 64 hexadecimal digits, mode 0600) and `signing.pub` (the public half, to hand out).
///
/// # Errors
/// A sentence: the file is malformed, readable by others, or cannot be read or written.
pub fn key(dir: &Path) -> Result<Key, String> {
    let path = dir.join(SECRET);
    let key = match fs::read_to_string(&path) {
        Ok(text) => load(&path, &text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(dir, &path)?,
        Err(error) => return Err(format!("the signing key cannot be read: {}", folder::cause(&error))),
    };
    publish(dir, &key)?;
    Ok(key)
}

/// The key of the store in `dir`, which must be there.
pub(super) fn read(dir: &Path) -> Result<Key, String> {
    let path = dir.join(SECRET);
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("the signing key cannot be read: {}", folder::cause(&error)))?;
    load(&path, &text)
}

/// Copies the key of the store in `from` into `dir`, where there must be none.
pub(super) fn copy(from: &Path, dir: &Path) -> Result<(), String> {
    let cannot = |error: &io::Error| format!("the signing key cannot be copied: {}", folder::cause(error));
    let text = fs::read_to_string(from.join(SECRET)).map_err(|error| cannot(&error))?;
    let key = load(&from.join(SECRET), &text)?;
    let mut file = folder::private_new(&dir.join(SECRET)).map_err(|error| cannot(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| cannot(&error))?;
    publish(dir, &key)
}

/// The public key in `dir`, for readers that must not touch the secret.
///
/// # Errors
/// A sentence: there is none, or it is malformed.
pub fn public_key(dir: &Path) -> Result<PublicKey, String> {
    let text = fs::read_to_string(dir.join(PUBLIC)).map_err(|error| {
        format!("{PUBLIC} cannot be read: {}; give the public key with --key", folder::cause(&error))
    })?;
    PublicKey::parse(&text).ok_or_else(|| format!("{PUBLIC} does not hold 64 hexadecimal digits of a public key"))
}

fn load(path: &Path, text: &str) -> Result<Key, String> {
    let private = folder::is_private(path).map_err(|error| folder::cause(&error))?;
    if !private {
        return Err(format!("{SECRET} can be read by others; if nobody has copied it, `chmod 600` it"));
    }
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim_end(), &mut seed)
        .map_err(|_| format!("{SECRET} does not hold 64 hexadecimal digits; restore it from a backup"))?;
    Ok(Key::from_seed(&seed))
}

fn make(dir: &Path, path: &Path) -> Result<Key, String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| format!("no randomness for a signing key: {error}"))?;
    let write = || -> io::Result<()> {
        folder::create(dir)?;
        let mut file = folder::private_new(path)?;
        writeln!(file, "{}", hex::encode(seed))?;
        file.sync_all()?;
        folder::sync(dir)
    };
    match write() {
        Ok(()) => Ok(Key::from_seed(&seed)),
        // Another gate made one in between: one of the two stands, and it is that one.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(path).map_err(|error| folder::cause(&error))?;
            load(path, &text)
        }
        Err(error) => Err(format!("the signing key cannot be written: {}", folder::cause(&error))),
    }
}

/// Writes the public half of `key` into `dir`, unless it is there.
pub(super) fn publish(dir: &Path, key: &Key) -> Result<(), String> {
    let path = dir.join(PUBLIC);
    let text = format!("{}\n", key.public().hex());
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    fs::write(&path, text).map_err(|error| format!("{PUBLIC} cannot be written: {}", folder::cause(&error)))
}
