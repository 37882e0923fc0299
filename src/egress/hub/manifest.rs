//! What a repository holds at one commit: every file with its size and the digest of its bytes.
//!
//! It is read from the Hub once for each pinned commit. All that clients ask about a repository is answered from here,
//! so that nothing of the Hub's own answers (Xet addresses, other revisions, descriptions) reaches them unread, and every
//! byte of a file is held to what stands here. A pin with a digest binds the whole of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::content::Promise;
use super::repo::{Repo, is_commit, is_file};
use crate::model::{Digest, canonical, parse_json};

/// Files of one repository.
const FILES: usize = 100_000;
/// Bytes of one file: what the Hub takes at most.
const FILE_BYTES: u64 = 500 << 30;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes.
    pub size: u64,
    /// Git's id of its blob; for a large file, of its pointer.
    pub blob: String,
    /// SHA-256 of a large file.
    pub lfs: Option<String>,
    pointer: u64,
}

impl Entry {
    /// What its bytes must give.
    #[must_use]
    pub fn promise(&self) -> Promise {
        self.lfs.clone().map_or_else(|| Promise::Blob(self.blob.clone()), Promise::Sha256)
    }

    /// The value of its `ETag`, without quotes.
    #[must_use]
    pub fn etag(&self) -> &str {
        self.lfs.as_deref().unwrap_or(&self.blob)
    }

    fn row(&self, path: &str) -> Value {
        let mut row = json!({"type": "file", "oid": self.blob, "size": self.size, "path": path});
        if let (Some(lfs), Some(row)) = (&self.lfs, row.as_object_mut()) {
            row.insert("lfs".into(), json!({"oid": lfs, "size": self.size, "pointerSize": self.pointer}));
        }
        row
    }
}

/// Why a listing of the Hub's is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// It is not what the Hub's interface says.
    #[error("the Hub's list of files cannot be read: {0}")]
    Odd(&'static str),
    /// More files than are taken.
    #[error("the repository has more than {FILES} files")]
    TooMany,
}

/// A repository at one commit.
#[derive(Clone, Debug)]
pub struct Manifest {
    repo: Repo,
    commit: String,
    files: BTreeMap<String, Entry>,
}

impl Manifest {
    /// Of `repo` at `commit`, without files.
    #[must_use]
    pub const fn new(repo: Repo, commit: String) -> Self {
        Self { repo, commit, files: BTreeMap::new() }
    }

    /// Takes one page of the Hub's list.
    ///
    /// # Errors
    /// [`ManifestFault`]; what was taken before is then not to be used.
    pub fn take(&mut self, page: &[u8]) -> Result<(), ManifestFault> {
        let odd = ManifestFault::Odd;
        let value = parse_json(page).map_err(|_| odd("it is not plain JSON"))?;
        let Value::Array(rows) = value else { return Err(odd("it is not a list")) };
        for row in rows {
            match row.get("type").and_then(Value::as_str) {
                Some("directory") => {}
                Some("file") => {
                    let path = row.get("path").and_then(Value::as_str).ok_or(odd("a file has no path"))?;
                    // A path that could not be asked for is no file that could be fetched.
                    if !is_file(path) {
                        continue;
                    }
                    let entry = entry(&row).ok_or(odd("a file has no size or no digest"))?;
                    if self.files.insert(path.to_owned(), entry).is_some() {
                        return Err(odd("a file is there twice"));
                    }
                    if self.files.len() > FILES {
                        return Err(ManifestFault::TooMany);
                    }
                }
                _ => return Err(odd("an entry is neither a file nor a folder")),
            }
        }
        Ok(())
    }

    /// The file at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&Entry> {
        self.files.get(path)
    }

    /// The commit.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// SHA-256 of the files' paths, sizes and digests in canonical JSON: what a pin's `digest` is compared with.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let row = |(path, entry): (&String, &Entry)| json!([path, entry.size.to_string(), entry.etag()]);
        Digest::of(canonical(&self.files.iter().map(row).collect::<Vec<_>>()).as_bytes())
    }

    /// What the Hub says of a repository, as far as the gate vouches for it.
    #[must_use]
    pub fn info(&self, blobs: bool) -> Value {
        let sibling = |(path, entry): (&String, &Entry)| {
            let mut sibling = json!({"rfilename": path});
            if let (true, Some(map)) = (blobs, sibling.as_object_mut()) {
                map.insert("size".into(), entry.size.into());
                map.insert("blobId".into(), entry.blob.clone().into());
                if let Some(lfs) = &entry.lfs {
                    let lfs = json!({"sha256": lfs, "size": entry.size, "pointerSize": entry.pointer});
                    map.insert("lfs".into(), lfs);
                }
            }
            sibling
        };
        json!({
            "id": self.repo.id(), "author": self.repo.namespace(), "sha": self.commit, "private": false, "gated": false,
            "disabled": false, "downloads": 0, "likes": 0, "tags": [],
            "siblings": self.files.iter().map(sibling).collect::<Vec<_>>(),
        })
    }

    /// The files and folders in `folder`, or with `deep` all below it; `None` when there is no such folder.
    #[must_use]
    pub fn tree(&self, folder: Option<&str>, deep: bool) -> Option<Value> {
        let start = folder.map_or_else(String::new, |folder| format!("{folder}/"));
        let mut folders = BTreeSet::new();
        let mut rows = Vec::new();
        for (path, entry) in self.files.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start)) {
            let below = path.get(start.len()..).unwrap_or_default();
            for (at, _) in below.match_indices('/').take(if deep { usize::MAX } else { 1 }) {
                folders.insert(format!("{start}{}", below.get(..at).unwrap_or_default()));
            }
            if deep || !below.contains('/') {
                rows.push(entry.row(path));
            }
        }
        if folder.is_some() && rows.is_empty() && folders.is_empty() {
            return None;
        }
        rows.extend(folders.into_iter().map(|path| self.folder(&path)));
        Some(Value::Array(rows))
    }

    /// Those of `paths` that are there.
    #[must_use]
    pub fn paths(&self, paths: &[String]) -> Value {
        let row = |path: &String| {
            let path = path.trim_end_matches('/');
            let folder = || self.tree(Some(path), false).map(|_| self.folder(path));
            self.files.get(path).map(|entry| entry.row(path)).or_else(folder)
        };
        Value::Array(paths.iter().filter_map(row).collect())
    }

    fn folder(&self, path: &str) -> Value {
        // Git's id of a folder is not in the list of files; clients show it and use it for nothing.
        json!({"type": "directory", "oid": self.commit, "size": 0, "path": path})
    }
}

fn entry(row: &Value) -> Option<Entry> {
    let size = row.get("size")?.as_u64().filter(|size| *size <= FILE_BYTES)?;
    let blob = row.get("oid")?.as_str().filter(|oid| is_commit(oid))?.to_owned();
    let Some(lfs) = row.get("lfs").filter(|lfs| !lfs.is_null()) else {
        return Some(Entry { size, blob, lfs: None, pointer: 0 });
    };
    let oid = lfs.get("oid")?.as_str()?;
    let sound = oid.len() == 64 && oid.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let same = lfs.get("size")?.as_u64()? == size;
    let pointer = lfs.get("pointerSize").and_then(Value::as_u64).unwrap_or_default();
    (sound && same).then(|| Entry { size, blob, lfs: Some(oid.to_owned()), pointer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::hub::repo::RepoKind;

    fn read(page: &Value) -> Result<Manifest, ManifestFault> {
        let mut manifest = Manifest::new(Repo::parse(RepoKind::Model, "t/n").unwrap(), "a".repeat(40));
        manifest.take(page.to_string().as_bytes()).map(|()| manifest)
    }

    fn file(path: &str) -> Value {
        json!({"type": "file", "path": path, "size": 6, "oid": "c".repeat(40), "xetHash": "x"})
    }

    #[test]
    fn clients_see_the_files_and_no_way_around_the_gate() {
        let mut large = file("w/model.safetensors");
        large["lfs"] = json!({"oid": "d".repeat(64), "size": 6, "pointerSize": 130});
        let manifest = read(&json!([file("a.json"), large, {"type": "directory", "path": "w"}])).unwrap();
        let all = manifest.tree(None, true).unwrap().to_string() + &manifest.info(true).to_string();
        assert!(!all.contains("xet") && !all.contains("Xet"));
        let paths = |value: Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|row| row["path"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(paths(manifest.tree(None, false).unwrap()), ["a.json", "w"]);
        assert_eq!(paths(manifest.tree(Some("w"), false).unwrap()), ["w/model.safetensors"]);
        assert_eq!(paths(manifest.paths(&["w/".into(), "a.json".into(), "b".into()])), ["w", "a.json"]);
        assert!(manifest.tree(Some("v"), false).is_none());
        assert_eq!(manifest.file("w/model.safetensors").unwrap().promise(), Promise::Sha256("d".repeat(64)));
        assert_eq!(manifest.file("a.json").unwrap().promise(), Promise::Blob("c".repeat(40)));
    }

    #[test]
    fn a_list_that_lies_is_not_taken() {
        let mut other_size = file("a");
        other_size["lfs"] = json!({"oid": "d".repeat(64), "size": 7});
        let mut no_digest = file("a");
        no_digest["oid"] = json!("main");
        for page in [
            json!([file("a"), file("a")]),
            json!([other_size]),
            json!([no_digest]),
            json!({}),
            json!([1]),
            json!([{"type": "x"}]),
        ] {
            assert!(read(&page).is_err(), "{page}");
        }
        assert!(read(&json!([file("../a"), file("a%2e")])).unwrap().files.is_empty());
    }

    #[test]
    fn the_digest_covers_paths_sizes_and_contents() {
        let digest = |value: Value| read(&json!([value])).unwrap().digest();
        let (mut size, mut content) = (file("a"), file("a"));
        size["size"] = json!(7);
        content["oid"] = json!("d".repeat(40));
        let all = [digest(file("a")), digest(file("b")), digest(size), digest(content)];
        assert_eq!(BTreeSet::from(all).len(), 4);
    }
}
