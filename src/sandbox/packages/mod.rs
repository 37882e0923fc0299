//! Packages of a policy: pure-Python wheels by their content, in the memory with which an interpreter starts.
//!
//! Every distinct set of wheels is one more start image of the same compiled guest: the wheels are checked (`wheel.rs`),
//! their modules compiled once by the guest itself, and imported once (`bench.rs`); a session maps the result
//! copy-on-write and pays for none of it. Where an image lies is part of a worker's terms, so that no worker serves two
//! sets. Nothing here decides what is granted, and no file of a wheel is ever written out or run on the host.

mod bench;
mod fetch;
mod label;
mod record;
mod wheel;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::builder::{self, GuestRow, Progress};
use super::cache::{Cache, Verified};
use super::compile::{self, Ready};
use super::worker::state;
use super::workers::Workers;
use super::{Base, SandboxFault};
use crate::model::{Digest, Package};
use bench::Bench;
pub use fetch::Wheels;
use wheel::{Piece, Wheel};

/// What is done here; another name makes every image anew.
const FORM: &str = "packages, 1";
/// Bytes of files in one message to the guest.
const BATCH: usize = 1 << 20;

/// One set of packages, ready to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// SHA-256 over the wheels' digests: the set's name.
    pub set: Digest,
    /// The modules that programs may import.
    pub modules: Vec<String>,
    /// Modules that could not be imported while the image was made, and why.
    pub failed: Vec<(String, String)>,
    /// Packages that some of these need always and that are not in the set: who, and what.
    pub wanting: Vec<(String, String)>,
    /// Bytes of the start image.
    pub bytes: u64,
}

/// What makes images.
pub(crate) struct Shop<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) row: &'a GuestRow,
    pub(crate) ready: &'a Ready,
    pub(crate) workers: &'a Arc<Workers>,
    /// A worker without packages.
    pub(crate) base: &'a Base,
    pub(crate) progress: &'a dyn Progress,
}

/// The name of a set: the same wheels in any order are one.
pub(crate) fn set(packages: &[Package]) -> Digest {
    let wheels: BTreeSet<Digest> = packages.iter().map(|package| package.digest).collect();
    let text = wheels.iter().fold(FORM.to_owned(), |text, wheel| format!("{text}\n{wheel}"));
    Digest::of(text.as_bytes())
}

fn stem(row: &GuestRow, packages: &[Package]) -> Result<String, SandboxFault> {
    let set = set(packages).hex();
    Ok(format!("{}-{}", compile::name(&builder::sources_stem(row))?, set.get(..16).unwrap_or_default()))
}

/// The start image of a set, when the cache has it.
///
/// # Errors
/// This machine cannot run the guest.
pub(crate) fn cached(cache: &Cache, row: &GuestRow, packages: &[Package]) -> Result<Option<Verified>, SandboxFault> {
    Ok(cache.sealed(&format!("{}.image", stem(row, packages)?)))
}

/// That these cannot be used before the operator has done something.
pub(crate) fn unprepared(packages: &[Package]) -> SandboxFault {
    let names: Vec<_> = packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
    SandboxFault::Unprepared(names.join(", ").chars().take(160).collect())
}

impl Shop<'_> {
    /// Fetches what the cache lacks of `packages`; a fault says everything that is wrong.
    pub(crate) fn fetch(&self, packages: &[Package], from: &Wheels) -> Result<(), SandboxFault> {
        fetch::fetch(self.cache, self.row, packages, from, self.progress)
    }

    /// The start image of each of `sets`, by its name.
    ///
    /// # Errors
    /// [`SandboxFault::Unprepared`] with all the wheels that are missing; see [`Shop::image`].
    pub(crate) fn images(&self, sets: &[Vec<Package>]) -> Result<Vec<(Digest, Verified)>, SandboxFault> {
        let mut lacking = Vec::new();
        for packages in sets {
            if cached(self.cache, self.row, packages)?.is_none() {
                lacking.extend(packages.iter().filter(|package| !fetch::has(self.cache, package)).cloned());
            }
        }
        if !lacking.is_empty() {
            return Err(unprepared(&lacking));
        }
        sets.iter().map(|packages| Ok((set(packages), self.image(packages)?.0))).collect()
    }

    /// The start image of `packages`, made now unless the cache has it.
    ///
    /// # Errors
    /// [`SandboxFault::Packages`]; [`SandboxFault::Unprepared`] while a wheel is missing.
    pub(crate) fn image(&self, packages: &[Package]) -> Result<(Verified, Prepared), SandboxFault> {
        let name = stem(self.row, packages)?;
        if let Some(found) = self.kept(&name) {
            return Ok(found);
        }
        let _lock = self.cache.lock()?;
        if let Some(found) = self.kept(&name) {
            return Ok(found);
        }
        let made = self.make(&name, packages);
        self.progress.done();
        made
    }

    fn kept(&self, name: &str) -> Option<(Verified, Prepared)> {
        let image = self.cache.sealed(&format!("{name}.image"))?;
        let about = self.cache.sealed(&format!("{name}.about"))?;
        let prepared = serde_json::from_slice(&fs::read(about.path()).ok()?).ok()?;
        Some((image, prepared))
    }

    fn make(&self, name: &str, packages: &[Package]) -> Result<(Verified, Prepared), SandboxFault> {
        let base = self.ready.image.as_ref();
        let base = base.ok_or_else(|| SandboxFault::Packages("this guest starts without an image".into()))?;
        let wheels = self.wheels(packages)?;
        let modules = tops(&wheels);
        let wanting = wanting(&wheels);
        let mut pressed = Vec::new();
        for (package, wheel) in &wheels {
            pressed.push(self.pressed(package, wheel)?);
        }
        self.progress.step("importing the packages once");
        let mut bench = Bench::open(self.workers, self.base)?;
        for (count, files) in batches(pressed.iter().flatten()) {
            tracing::debug!("{count} files of packages go in");
            bench.ask("add", files)?;
        }
        let failed = bench.ask("ready", json!(modules))?;
        let failed = serde_json::from_value(failed).map_err(|_| odd())?;
        let mut memory = fs::read(base.path()).map_err(|error| SandboxFault::Cache(error.to_string()))?;
        state::apply(&bench.state()?, &mut memory).map_err(|fault| SandboxFault::Packages(fault.to_string()))?;
        let bytes = memory.len() as u64;
        let prepared = Prepared { set: set(packages), modules, failed, wanting, bytes };
        // An image stands for all that belongs to it: it comes last.
        let about = serde_json::to_vec(&prepared).map_err(|error| SandboxFault::Packages(error.to_string()))?;
        self.cache.put(&format!("{name}.about"), &about)?;
        Ok((self.cache.put(&format!("{name}.image"), &memory)?, prepared))
    }

    /// The wheels of `packages` out of the cache; all that is wrong with them at once.
    fn wheels<'p>(&self, packages: &'p [Package]) -> Result<Vec<(&'p Package, Wheel)>, SandboxFault> {
        let (mut wheels, mut faults) = (Vec::new(), Vec::new());
        for package in packages {
            let bytes = fetch::bytes(self.cache, package).ok_or_else(|| unprepared(packages))?;
            match Wheel::read(&bytes, package) {
                Ok(wheel) => wheels.push((package, wheel)),
                Err(fault) => faults.push(format!("{} {}: {fault}", package.name, package.version)),
            }
        }
        faults.extend(clashes(&wheels));
        if faults.is_empty() { Ok(wheels) } else { Err(SandboxFault::Packages(faults.join("\n  "))) }
    }

    /// A wheel's files with its modules compiled, which is done once for every guest.
    fn pressed(&self, package: &Package, wheel: &Wheel) -> Result<Vec<Piece>, SandboxFault> {
        let name = format!("{}-{}.pressed", builder::sources_stem(self.row), package.digest.hex());
        let found = self.cache.sealed(&name).and_then(|found| fs::read(found.path()).ok());
        let compiled = match found.and_then(|bytes| postcard::from_bytes::<BTreeMap<String, Vec<u8>>>(&bytes).ok()) {
            Some(compiled) => compiled,
            None => {
                self.progress.step(&format!("compiling {} {} for the guest", package.name, package.version));
                let compiled = self.press(wheel)?;
                let bytes =
                    postcard::to_stdvec(&compiled).map_err(|fault| SandboxFault::Packages(fault.to_string()))?;
                self.cache.put(&name, &bytes)?;
                compiled
            }
        };
        let piece = |piece: &Piece| {
            let content = compiled.get(&piece.path).filter(|_| piece.module.is_some()).unwrap_or(&piece.content);
            Piece { content: content.clone(), ..piece.clone() }
        };
        Ok(wheel.pieces.iter().map(piece).collect())
    }

    fn press(&self, wheel: &Wheel) -> Result<BTreeMap<String, Vec<u8>>, SandboxFault> {
        let mut bench = Bench::open(self.workers, self.base)?;
        let mut compiled = BTreeMap::new();
        for (count, files) in batches(wheel.pieces.iter().filter(|piece| piece.module.is_some())) {
            let answer: Vec<(String, String)> =
                serde_json::from_value(bench.ask("press", files)?).map_err(|_| odd())?;
            if answer.len() != count {
                return Err(odd());
            }
            for (path, text) in answer {
                compiled.insert(path, STANDARD.decode(text).map_err(|_| odd())?);
            }
        }
        let whole = wheel.pieces.iter().filter(|piece| piece.module.is_some());
        if whole.clone().all(|piece| compiled.contains_key(&piece.path)) { Ok(compiled) } else { Err(odd()) }
    }
}

fn odd() -> SandboxFault {
    SandboxFault::Packages("the interpreter that prepares them answered something else than was asked".into())
}

fn tops(wheels: &[(&Package, Wheel)]) -> Vec<String> {
    let tops: BTreeSet<&String> = wheels.iter().flat_map(|(_, wheel)| &wheel.tops).collect();
    tops.into_iter().cloned().collect()
}

/// What two wheels both bring, unless it is the same.
fn clashes(wheels: &[(&Package, Wheel)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen: BTreeMap<&str, (&Package, &Piece)> = BTreeMap::new();
    for (package, wheel) in wheels {
        for piece in &wheel.pieces {
            match seen.insert(&piece.path, (package, piece)) {
                Some((other, first)) if first.content != piece.content => {
                    faults.push(format!("{} and {} both bring `{}`", other.name, package.name, piece.path));
                }
                _ => {}
            }
        }
    }
    faults.truncate(5);
    faults
}

/// Which packages the set lacks, as (who needs it, what).
fn wanting(wheels: &[(&Package, Wheel)]) -> Vec<(String, String)> {
    let there: BTreeSet<String> = wheels.iter().map(|(package, _)| label::normal(&package.name)).collect();
    let needs = wheels.iter().flat_map(|(package, wheel)| wheel.requires.iter().map(|need| (&package.name, need)));
    needs.filter(|(_, need)| !there.contains(*need)).map(|(who, need)| (who.clone(), need.clone())).collect()
}

/// The files in messages of about [`BATCH`] bytes, and how many each has.
fn batches<'p>(pieces: impl Iterator<Item = &'p Piece>) -> Vec<(usize, Value)> {
    let (mut batches, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        if !batch.is_empty() && bytes + piece.content.len() > BATCH {
            batches.push((batch.len(), Value::Array(std::mem::take(&mut batch))));
            bytes = 0;
        }
        bytes += piece.content.len();
        batch.push(json!([piece.path, piece.module, STANDARD.encode(&piece.content)]));
    }
    batches.push((batch.len(), Value::Array(batch)));
    batches
}
