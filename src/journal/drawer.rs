//! What a person must see of a question and the journal must not hold, in a folder of the store: one private file each.
//!
//! It is written before the question can be answered and removed once it is over. Whoever reads checks it against the
//! digest on record; a file that is missing or was changed makes a question one that can only be refused.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::folder;
use crate::model::Name;
use crate::pep::port::{Drawer, JournalFault};

/// A folder of questions.
#[derive(Debug)]
pub struct Questions(PathBuf);

/// Bytes of one file at most; a call's arguments are bounded far below.
const MOST: u64 = 64 << 20;

impl Questions {
    /// The questions of the store in `dir`. Nothing is made until one is kept.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self(dir.join("questions"))
    }

    /// The file of question `id`, which the gate made out of hexadecimal digits.
    fn path(&self, id: &Name) -> Option<PathBuf> {
        let plain = id.as_str().len() == 32 && id.as_str().bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| self.0.join(id.as_str()))
    }

    fn write(&self, path: &Path, text: &str) -> std::io::Result<()> {
        folder::create(&self.0)?;
        // A torn file is no danger: what was not written whole does not match its digest.
        let mut file = folder::private(path)?;
        file.set_len(0)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        folder::sync(&self.0)
    }
}

impl Drawer for Questions {
    fn put(&self, id: &Name, text: &str) -> Result<(), JournalFault> {
        let path = self.path(id).ok_or_else(|| JournalFault("a question has an id that no gate makes".into()))?;
        self.write(&path, text)
            .map_err(|error| JournalFault(format!("the question cannot be kept: {}", folder::cause(&error))))
    }

    fn get(&self, id: &Name) -> Option<String> {
        let path = self.path(id)?;
        let small = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MOST);
        small.then(|| fs::read_to_string(path).ok()).flatten()
    }

    fn keep_only(&self, these: &[Name]) {
        let Ok(files) = fs::read_dir(&self.0) else { return };
        for file in files.flatten() {
            let kept = these.iter().any(|id| file.file_name() == id.as_str());
            if !kept && let Err(error) = fs::remove_file(file.path()) {
                tracing::warn!(%error, "a question that is over could not be removed");
            }
        }
    }

    fn remove(&self, id: &Name) {
        // One that cannot be removed now goes at the next start.
        if let Some(path) = self.path(id) {
            drop(fs::remove_file(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_question_is_kept_privately_until_it_is_over() {
        let home = tempfile::tempdir().unwrap();
        let questions = Questions::of(home.path());
        let ids = ["a", "b"].map(|digit| Name::new(digit.repeat(32)).unwrap());
        assert_eq!(questions.get(&ids[0]), None);
        questions.keep_only(&[]);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0, "nothing is made by looking");
        for id in &ids {
            questions.put(id, "text").unwrap();
        }
        let mode = fs::metadata(home.path().join("questions").join(ids[0].as_str())).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "arguments may be secrets");
        questions.keep_only(&ids[..1]);
        assert_eq!((questions.get(&ids[0]).as_deref(), questions.get(&ids[1])), (Some("text"), None));
        questions.remove(&ids[0]);
        assert_eq!(questions.get(&ids[0]), None);
        assert!(questions.put(&Name::new("../outside").unwrap(), "text").is_err());
        assert!(questions.get(&Name::new("..").unwrap()).is_none());
    }
}
