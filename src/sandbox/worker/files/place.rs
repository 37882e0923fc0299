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
    /// A folder to write without a quota, or one inside another: its files would count in one of them only.
    pub(crate) fn new(folders: &[Folder], shared: &Arc<Shared>) -> Result<Self, String> {
        let mut quotas = BTreeMap::new();
        let mut roots = Vec::new();
        for folder in folders.iter().filter(|folder| folder.access == Access::Write) {
            let quota = folder.quota.ok_or_else(|| format!("the folder {} has no quota", folder.guest))?;
            quotas.insert(folder.guest.clone(), quota);
            let root = std::fs::canonicalize(&folder.host)
                .map_err(|error| format!("the folder for {} cannot be opened: {error}", folder.guest))?;
            roots.push((root, &folder.guest));
        }
        for (at, (root, guest)) in roots.iter().enumerate() {
            let mut others = roots.iter().enumerate().filter(|(other, _)| *other != at);
            if let Some((_, (_, other))) = others.find(|(_, (other, _))| root.starts_with(other)) {
                return Err(format!("the folder for {guest} lies in the one for {other}; give one of them"));
            }
        }
        Ok(Self { shared: Arc::clone(shared), quotas, ..Self::default() })
    }

    /// Where `fd` lies; nothing may be written where that is not known.
    pub(super) fn place(&self, fd: &Resource<Descriptor>) -> Place {
        self.places.get(&fd.rep()).cloned().unwrap_or(Place { volume: None, depth: 0 })
    }
}
