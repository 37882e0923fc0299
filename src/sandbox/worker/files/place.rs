//! Where the descriptors of a guest lie: in which volume, and how deep.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path};
use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::Descriptor;
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;

use super::volume::{Shared, Volume};
use crate::model::{Access, Quota};
use crate::sandbox::wire::Folder;

/// Parts of a path below its folder, at most, for what a guest makes.
const DEPTH: usize = 32;

/// Where a descriptor lies.
#[derive(Clone)]
pub(super) struct Place {
    /// `None` where nothing may be written.
    pub(super) volume: Option<Arc<Volume>>,
    /// Folders between it and its volume's root.
    pub(super) depth: usize,
}

impl Place {
    /// The depth of `path` below this folder.
    pub(super) fn depth_of(&self, path: &str) -> usize {
        Path::new(path).components().fold(self.depth, |depth, part| match part {
            Component::Normal(_) => depth + 1,
            Component::ParentDir => depth.saturating_sub(1),
            _ => depth,
        })
    }

    /// Refuses a name that nobody should have to read, and a path that is too deep to be collected.
    pub(super) fn check_new(&self, path: &str) -> Result<(), ErrorCode> {
        if path.chars().any(char::is_control) {
            Err(ErrorCode::IllegalByteSequence)
        } else if self.depth_of(path) > DEPTH {
            Err(ErrorCode::NameTooLong)
        } else {
            Ok(())
        }
    }
}

/// The folders of one guest, and where its descriptors lie.
#[derive(Default)]
pub(crate) struct Volumes {
    pub(super) shared: Arc<Shared>,
    /// By the guest's path.
    pub(super) quotas: BTreeMap<String, Quota>,
    pub(super) places: HashMap<u32, Place>,
    pub(super) listings: HashSet<u32>,
}

impl Volumes {
    /// The volumes of a guest that has `folders`.
    ///
    /// # Errors
    /// A folder to write without a quota.
    pub(crate) fn new(folders: &[Folder], shared: &Arc<Shared>) -> Result<Self, String> {
        let mut quotas = BTreeMap::new();
        for folder in folders.iter().filter(|folder| folder.access == Access::Write) {
            let quota = folder.quota.ok_or_else(|| format!("the folder {} has no quota", folder.guest))?;
            quotas.insert(folder.guest.clone(), quota);
        }
        Ok(Self { shared: Arc::clone(shared), quotas, ..Self::default() })
    }

    /// Where `fd` lies; nothing may be written where that is not known.
    pub(super) fn place(&self, fd: &Resource<Descriptor>) -> Place {
        self.places.get(&fd.rep()).cloned().unwrap_or(Place { volume: None, depth: 0 })
    }
}

/// Refuses folders to write of which one lies in another: a file there would count in one of them only. It looks at
/// paths of the host, so it is the gate's to ask and not a locked worker's.
///
/// # Errors
/// Which two; or one that cannot be found.
pub(crate) fn apart(folders: &[Folder]) -> Result<(), String> {
    let written: Vec<&Folder> = folders.iter().filter(|folder| folder.access == Access::Write).collect();
    let root = |folder: &&Folder| {
        std::fs::canonicalize(&folder.host)
            .map_err(|error| format!("the folder for {} cannot be opened: {error}", folder.guest))
    };
    let roots = written.iter().map(root).collect::<Result<Vec<_>, _>>()?;
    for (at, (folder, root)) in written.iter().zip(&roots).enumerate() {
        let inside = |(other, of): (usize, &std::path::PathBuf)| other != at && root.starts_with(of);
        if let Some(other) = roots.iter().enumerate().position(inside).and_then(|other| written.get(other)) {
            return Err(format!(
                "the folder for {} lies in the one for {}; give one of them",
                folder.guest, other.guest
            ));
        }
    }
    Ok(())
}
