//! What is in a file: whether it can bring code, and whether its bytes are those that were promised.
//!
//! A name says what a loader will do with a file, its first bytes what it is; either is enough for a refusal, and neither
//! is proof of harmlessness. Nothing is ever unpickled or unpacked here.

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// Endings of files that a loader unpickles, imports or runs.
const CODE: &[&str] = &[
    "bin", "ckpt", "dill", "dll", "dylib", "egg", "exe", "h5", "hdf5", "ipynb", "jar", "joblib", "keras", "mar",
    "nemo", "npz", "pickle", "pkl", "pt", "pt2", "pth", "pb", "ps1", "py", "pyc", "pyd", "pyi", "pyw", "sh", "so",
    "t7", "whl",
];

/// True when the file's name says that loading it runs code of whoever made it.
#[must_use]
pub fn is_code(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    // `weights.bin.index.json` ends harmlessly; `libx.so.1` and `model.pkl.gz` do not.
    let mut endings = name.split('.').skip(1);
    let last = name.rsplit('.').next().unwrap_or_default();
    let packed = ["gz", "bz2", "xz", "zst", "zip", "tar", "lz4", "7z"].contains(&last)
        || last.bytes().all(|b| b.is_ascii_digit());
    if packed { endings.any(|ending| CODE.contains(&ending)) } else { name.contains('.') && CODE.contains(&last) }
}

/// Bytes at a file's beginning that are looked at.
pub const HEAD_BYTES: usize = 64 << 10;

/// What the first bytes of a file show although its name does not say so; `None` for nothing suspicious.
#[must_use]
pub fn disguise(head: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if matches!(head, [0x80, 2..=5, ..]) {
        return Some("a pickle");
    }
    if starts(b"PK\x03\x04") && holds(head, b".pkl") {
        return Some("an archive with a pickle");
    }
    if starts(b"\x93NUMPY")
        && head.get(..256.min(head.len())).is_some_and(|head| holds(head, b"'descr': '|O'") || holds(head, b"'O'"))
    {
        return Some("an array of pickled objects");
    }
    if starts(b"\x7fELF") || starts(b"MZ") || starts(b"\xcf\xfa\xed\xfe") || starts(b"\xca\xfe\xba\xbe") {
        return Some("a program");
    }
    if starts(b"\x89HDF\r\n\x1a\n") {
        return Some("an HDF5 file, which can hold code");
    }
    if starts(b"#!") {
        return Some("a script");
    }
    // The oldest pickles have no header: PyTorch's first word is its magic number.
    (starts(b"(lp") || starts(b"(dp") || starts(b"ccopy_reg") || starts(b"cos\n") || starts(b"cposix\n"))
        .then_some("a pickle")
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// What a file's bytes must give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Promise {
    /// SHA-256, 64 hexadecimal digits: a large file.
    Sha256(String),
    /// The id of git's blob, 40 hexadecimal digits: SHA-1 of its length and content.
    Blob(String),
}

/// Checks bytes against a promise as they pass.
pub struct Check {
    state: State,
    promise: Promise,
    left: u64,
}

enum State {
    Sha256(Sha256),
    Blob(Sha1),
}

impl Check {
    /// A check of a file of `size` bytes.
    #[must_use]
    pub fn new(promise: Promise, size: u64) -> Self {
        let state = match &promise {
            Promise::Sha256(_) => State::Sha256(Sha256::new()),
            Promise::Blob(_) => State::Blob(Sha1::new().chain_update(format!("blob {size}\0").as_bytes())),
        };
        Self { state, promise, left: size }
    }

    /// Takes the next bytes; false when there are more than were promised.
    #[must_use]
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else { return false };
        self.left = left;
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Blob(state) => state.update(bytes),
        }
        true
    }

    /// Bytes still to come.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// True when all of it has passed and is what was promised.
    #[must_use]
    pub fn holds(self) -> bool {
        let found = match self.state {
            State::Sha256(state) => hex::encode(state.finalize()),
            State::Blob(state) => hex::encode(state.finalize()),
        };
        let (Promise::Sha256(wanted) | Promise::Blob(wanted)) = &self.promise;
        self.left == 0 && found == *wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_what_a_loader_does_with_a_file() {
        for code in
            ["pytorch_model.bin", "a/b.PT", "x.pkl.gz", "modeling.py", "lib.so.1", "w.npz", "a.ckpt", "Model.KERAS"]
        {
            assert!(is_code(code), "{code}");
        }
        for data in [
            "model.safetensors",
            "tokenizer.json",
            "pytorch_model.bin.index.json",
            "README.md",
            "a.py/readme.txt",
            "py",
            "x.gguf",
            ".gitattributes",
            "data.csv.gz",
            "a.parquet",
        ] {
            assert!(!is_code(data), "{data}");
        }
    }

    #[test]
    fn first_bytes_betray_what_a_name_hides() {
        for head in [
            &b"\x80\x04\x95"[..],
            b"PK\x03\x04....archive/data.pkl",
            b"\x93NUMPY\x01\0v\0{'descr': '|O', ",
            b"\x7fELF",
            b"#!/bin/sh",
            b"cos\nsystem\n",
            b"\x89HDF\r\n\x1a\n",
        ] {
            assert!(disguise(head).is_some(), "{head:?}");
        }
        for head in [
            &b""[..],
            b"{}",
            b"\x40\0\0\0\0\0\0\0{\"a\"",
            b"GGUF",
            b"PK\x03\x04....a.txt",
            b"\x93NUMPY\x01\0v\0{'descr': '<f4'",
            b"PAR1",
        ] {
            assert_eq!(disguise(head), None, "{head:?}");
        }
    }

    #[test]
    fn bytes_are_held_to_their_promise() {
        // What `git hash-object` and `sha256sum` say of "hello\n".
        let blob = Promise::Blob("ce013625030ba8dba906f756967f9e9ca394464a".into());
        let large = Promise::Sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into());
        for promise in [blob, large] {
            let check = |parts: &[&[u8]]| {
                let mut check = Check::new(promise.clone(), 6);
                parts.iter().all(|part| check.take(part)) && check.holds()
            };
            assert!(check(&[b"hel", b"lo\n"]));
            assert!(!check(&[b"hello"]) && !check(&[b"hello\n\n"]) && !check(&[b"hallo\n"]) && !check(&[]));
        }
    }
}
