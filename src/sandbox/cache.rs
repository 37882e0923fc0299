//! The cache folder: the built guest and its compiled form, each sealed by this installation's own key.
//!
//! A file that this installation did not seal is never used: it is made again. The seal is an Ed25519
//! signature over the file's name and SHA-256; the key is 32 random bytes that never leave the folder.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ed25519_dalek::{Signature, Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

use super::SandboxFault;
use crate::model::Digest;

/// An open cache folder.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// A file of the cache whose seal held.
#[derive(Debug)]
pub(crate) struct Verified {
    path: PathBuf,
    digest: Digest,
}

impl Verified {
    /// What the gate has verified, as a worker hears of it on the socket that it was started with.
    pub(crate) const fn told(path: PathBuf) -> Self {
        Self { path, digest: Digest::ZERO }
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its SHA-256, where this process has verified it itself.
    pub(crate) const fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// Exclusive use of the cache by one process; ends when dropped.
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Cache {
    /// Opens `folder`, or the usual one, and makes it private.
    ///
    /// # Errors
    /// [`SandboxFault::Cache`].
    pub(crate) fn open(folder: Option<PathBuf>) -> Result<Self, SandboxFault> {
        let folder = folder.or_else(usual_folder).ok_or_else(|| {
            SandboxFault::Cache("neither WEIR_CACHE, XDG_CACHE_HOME nor HOME says where it should be".into())
        })?;
        let private = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            // Fails where the folder belongs to somebody else, which is meant.
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))
        };
        private().map_err(|error| SandboxFault::Cache(error.to_string()))?;
        let folder = folder.canonicalize().map_err(|error| SandboxFault::Cache(error.to_string()))?;
        Ok(Self { folder })
    }

    /// The path of `name` inside the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Waits for other processes and takes the cache for this one.
    pub(crate) fn lock(&self) -> Result<Lock, SandboxFault> {
        let locked = || {
            let file =
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.path("lock"))?;
            file.lock()?;
            Ok::<_, io::Error>(Lock(file))
        };
        locked().map_err(|error| SandboxFault::Cache(error.to_string()))
    }

    /// The file `name`, when it is there and sealed by this installation.
    pub(crate) fn sealed(&self, name: &str) -> Option<Verified> {
        let path = self.path(name);
        let key = self.key().ok()?;
        let mut seal = [0; 64];
        hex::decode_to_slice(fs::read_to_string(self.seal_path(name)).ok()?.trim(), &mut seal).ok()?;
        let digest = digest(&path).ok()?;
        key.verifying_key().verify_strict(&statement(name, &digest), &Signature::from_bytes(&seal)).ok()?;
        Some(Verified { path, digest })
    }

    /// Puts `bytes` under `name` and seals them. Readers see the old file or the new one, never a part.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<Verified, SandboxFault> {
        let stored = || {
            let path = self.path(name);
            self.write(&path, bytes)?;
            let digest = digest(&path)?;
            let seal = self.key()?.sign(&statement(name, &digest));
            self.write(&self.seal_path(name), hex::encode(seal.to_bytes()).as_bytes())?;
            Ok::<_, io::Error>(Verified { path, digest })
        };
        stored().map_err(|error| SandboxFault::Cache(error.to_string()))
    }

    /// Removes `name`, if it is there; its seal last, by which it is found.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        for path in [self.path(name), self.seal_path(name)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every sealed file as (name, bytes).
    pub(crate) fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if self.seal_path(&name).exists() {
                found.push((name, entry.metadata()?.len()));
            }
        }
        found.sort();
        Ok(found)
    }

    fn seal_path(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.seal"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let part = PathBuf::from(name);
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(part, path)
    }

    /// The installation's key; made on first use.
    fn key(&self) -> io::Result<SigningKey> {
        let path = self.path("seal.key");
        let mut seed = [0; 32];
        match fs::read(&path) {
            Ok(bytes) if bytes.len() == seed.len() => seed.copy_from_slice(&bytes),
            _ => {
                getrandom::fill(&mut seed).map_err(|error| io::Error::other(error.to_string()))?;
                self.write(&path, &seed)?;
            }
        }
        Ok(SigningKey::from_bytes(&seed))
    }
}

/// What a seal says: this name has bytes of this digest.
fn statement(name: &str, digest: &Digest) -> Vec<u8> {
    let mut said = format!("weir cache v1\0{name}\0").into_bytes();
    said.extend_from_slice(&digest.0);
    said
}

/// SHA-256 of the file at `path`.
fn digest(path: &Path) -> io::Result<Digest> {
    let mut digest = Sha256::new();
    let mut file = File::open(path)?;
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        let Some(part) = block.get(..read).filter(|part| !part.is_empty()) else { break };
        digest.update(part);
    }
    Ok(Digest(digest.finalize().into()))
}

fn usual_folder() -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("WEIR_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("weir")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/weir")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_installation_sealed_is_used() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mine = Cache::open(Some(here.path().join("weir"))).unwrap();
        let other = Cache::open(Some(there.path().to_owned())).unwrap();
        mine.put("a.cwasm", b"code").unwrap();
        other.put("a.cwasm", b"evil").unwrap();
        assert!(mine.sealed("a.cwasm").is_some());
        assert!(mine.sealed("b.cwasm").is_none(), "absent");

        fs::copy(other.path("a.cwasm"), mine.path("a.cwasm")).unwrap();
        assert!(mine.sealed("a.cwasm").is_none(), "other bytes under my seal");
        fs::copy(other.seal_path("a.cwasm"), mine.seal_path("a.cwasm")).unwrap();
        assert!(mine.sealed("a.cwasm").is_none(), "another installation's seal");

        mine.put("a.cwasm", b"code").unwrap();
        fs::copy(mine.path("a.cwasm"), mine.path("b.cwasm")).unwrap();
        fs::copy(mine.seal_path("a.cwasm"), mine.seal_path("b.cwasm")).unwrap();
        assert!(mine.sealed("b.cwasm").is_none(), "a seal is for one name");
    }

    #[test]
    fn the_folder_and_the_key_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().join("weir"))).unwrap();
        cache.put("x", b"x").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("weir")), 0o700);
        assert_eq!(mode(&cache.path("seal.key")), 0o600);
    }
}
