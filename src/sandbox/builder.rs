//! Builds a guest on first use: a pinned tool, installed by hash into the cache, turns the guest's folder (which
//! this binary carries) into a component.
//!
//! `table.rs` lists the guests; `pip.rs` and `npm.rs` are the two ways to get a tool and to run it, `file.rs` takes
//! what the operator built. What every component goes through, whatever made it, is `finish`.

mod file;
mod npm;
mod pip;
mod table;

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::cache::{Cache, Verified};
use super::{SandboxFault, compile, merge};
use crate::model::Digest;
use file::Added;
use table::{GUESTS, Route};
pub(crate) use table::{GuestRow, row};

/// What [`finish`] does to a component; another name makes every cache build anew.
const FINISH: &str = "one core module, 1";

/// Told what takes time while a guest is built; called only then.
pub trait Progress: Send + Sync {
    /// A step begins; the one before it has ended.
    fn step(&self, what: &str);
    /// The last step has ended.
    fn done(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str) {}
    fn done(&self) {}
}

/// What stands in `guest.toml`; each route has tools of its own form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    world: String,
    language: String,
    capabilities: Vec<String>,
    builder: toml::Table,
}

/// A guest as the command line shows it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// The language and its version.
    pub language: String,
    /// The world that it is built for.
    pub world: String,
    /// What it may ask for.
    pub capabilities: Vec<String>,
    /// SHA-256 of its sources and of the tool that builds it, hexadecimal; of the component where that is added, and
    /// `None` until then.
    pub digest: Option<String>,
    /// What makes it ready for use: a command.
    pub command: String,
    /// The cache folder.
    pub cache: PathBuf,
    /// Its sealed files there: name and bytes.
    pub files: Vec<(String, u64)>,
    /// The start of the names of those that are made from what it is now.
    pub stem: Option<String>,
    /// The same of those that are compiled for this program and this machine.
    pub compiled: Option<String>,
}

impl Guest {
    /// The names of all guests; the first is the usual one.
    pub fn names() -> impl Iterator<Item = &'static str> {
        GUESTS.iter().map(|row| row.name)
    }

    /// The names of those whose component the operator builds and adds.
    pub fn addable() -> impl Iterator<Item = &'static str> {
        GUESTS.iter().filter(|row| row.route == Route::File).map(|row| row.name)
    }

    /// Takes the component in `file` for the guest `name`: checks, compiles and tries it.
    ///
    /// # Errors
    /// [`SandboxFault`] with what is wrong with the file; a component that was added before stays in use.
    pub fn add(name: &str, file: &Path, cache: Option<PathBuf>, progress: &dyn Progress) -> Result<Self, SandboxFault> {
        let row = known(name)?;
        if row.route != Route::File {
            let said = format!("the guest {name} is built here: run `{}`", command(row));
            return Err(SandboxFault::Added(said));
        }
        let cache = Cache::open(cache)?;
        file::add(&cache, name, file, progress)?;
        Self::of(row, &cache)
    }

    /// Every guest, and what the cache holds of it.
    ///
    /// # Errors
    /// [`SandboxFault`] when the cache cannot be read.
    pub fn all(cache: Option<PathBuf>) -> Result<Vec<Self>, SandboxFault> {
        let cache = Cache::open(cache)?;
        GUESTS.iter().map(|row| Self::of(row, &cache)).collect()
    }

    /// Builds and compiles the guest `name` unless the cache has it.
    ///
    /// # Errors
    /// [`SandboxFault`] with what to do about it.
    pub fn build(name: &str, cache: Option<PathBuf>, progress: &dyn Progress) -> Result<Self, SandboxFault> {
        let row = known(name)?;
        let cache = Cache::open(cache)?;
        compile::compiled(&cache, row, progress)?;
        Self::of(row, &cache)
    }

    /// True when the cache holds files of it that are in use.
    #[must_use]
    pub fn is_built(&self) -> bool {
        self.files.iter().any(|(file, _)| self.is_current(file))
    }

    /// True for a file that this program uses, false for one that another version of it made or left.
    #[must_use]
    pub fn is_current(&self, file: &str) -> bool {
        let Some(rest) = self.stem.as_ref().and_then(|stem| file.strip_prefix(stem.as_str())) else { return false };
        let made = rest == ".wasm" || rest.ends_with(".pressed");
        made || self.compiled.as_ref().is_some_and(|compiled| file.starts_with(compiled))
    }

    /// Removes what this program does not use of any guest; the names and bytes of what is gone. A process of another
    /// version that runs now may need it: a worker that it starts afterwards does not find its guest.
    ///
    /// # Errors
    /// [`SandboxFault`] when the cache cannot be read or written.
    pub fn prune(cache: Option<PathBuf>) -> Result<Vec<(String, u64)>, SandboxFault> {
        let cache = Cache::open(cache)?;
        // Nobody builds meanwhile.
        let _lock = cache.lock()?;
        let mut gone = Vec::new();
        for row in &GUESTS {
            let guest = Self::of(row, &cache)?;
            for (file, bytes) in guest.files.iter().filter(|(file, _)| !guest.is_current(file)) {
                cache.remove(file).map_err(|error| SandboxFault::Cache(error.to_string()))?;
                gone.push((file.clone(), *bytes));
            }
        }
        Ok(gone)
    }

    fn of(row: &GuestRow, cache: &Cache) -> Result<Self, SandboxFault> {
        let mut files = cache.list().map_err(|error| SandboxFault::Cache(error.to_string()))?;
        // Behind the name stands a digest: another guest's name may begin with this one's.
        let ours = |rest: &str| rest.get(..16).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        files.retain(|(file, _)| file.strip_prefix(row.name).and_then(|rest| rest.strip_prefix('-')).is_some_and(ours));
        let Manifest { name, world, language, capabilities, .. } = manifest(row)?;
        let digest = match row.route {
            Route::File => Added::current(cache, row).map(|added| added.digest),
            Route::Pip | Route::Npm => Some(digest(row.files)),
        };
        let (command, stem) = (command(row), stem(cache, row));
        let compiled = stem.as_deref().map(compile::name).transpose()?;
        Ok(Self { name, language, world, capabilities, digest, command, cache: cache.path(""), files, stem, compiled })
    }
}

/// The command that makes the guest of `row` ready.
fn command(row: &GuestRow) -> String {
    match row.route {
        Route::File => format!("weir guest add {} FILE", row.name),
        Route::Pip | Route::Npm => format!("weir guest build {}", row.name),
    }
}

/// That the guest of `row` is not there, and what makes it.
pub(crate) fn unbuilt(row: &GuestRow) -> SandboxFault {
    SandboxFault::Unbuilt(row.name, command(row))
}

/// The row of the guest `name`.
pub(crate) fn known(name: &str) -> Result<&'static GuestRow, SandboxFault> {
    let unknown = || {
        let names: Vec<_> = Guest::names().collect();
        SandboxFault::Build(format!("there is no guest `{name}`; there are: {}", names.join(", ")))
    };
    row(name).ok_or_else(unknown)
}

/// The component file of a guest, built now if the cache has none that is sealed.
pub(crate) fn component(cache: &Cache, row: &GuestRow, progress: &dyn Progress) -> Result<Verified, SandboxFault> {
    let added = || Added::current(cache, row)?.component(cache, row);
    let stem = match row.route {
        Route::File => return added().ok_or_else(|| unbuilt(row)),
        Route::Pip | Route::Npm => sources_stem(row),
    };
    let name = format!("{stem}.wasm");
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    let _lock = cache.lock()?;
    // Another process may have built it while this one waited.
    if let Some(found) = cache.sealed(&name) {
        return Ok(found);
    }
    let built = build(cache, row, progress);
    progress.done();
    cache.put(&name, &built?)
}

/// A Python with pip: the one in which a guest's tool lies, or the machine's.
pub(crate) fn python(cache: &Cache, row: &GuestRow) -> PathBuf {
    let tool = manifest(row).ok().and_then(|manifest| manifest.builder.try_into().ok());
    let own = tool.map(|tool| pip::python(cache, &tool)).filter(|own| own.exists());
    own.unwrap_or_else(|| "python3".into())
}

/// The name under which everything made from a guest is kept; `None` for one of which there is nothing to make it from.
pub(crate) fn stem(cache: &Cache, row: &GuestRow) -> Option<String> {
    match row.route {
        Route::File => Added::current(cache, row).map(|added| added.stem(row)),
        Route::Pip | Route::Npm => Some(sources_stem(row)),
    }
}

/// The name under which everything made from a guest's sources is kept.
pub(crate) fn sources_stem(row: &GuestRow) -> String {
    format!("{}-{}", row.name, digest(row.files).get(..16).unwrap_or_default())
}

/// The digest of a guest's sources.
pub(crate) fn sources(row: &GuestRow) -> Digest {
    let mut bytes = [0; 32];
    // It was written as hexadecimal digits just now.
    let _ = hex::decode_to_slice(digest(row.files), &mut bytes);
    Digest(bytes)
}

/// SHA-256 over files and their names; a guest's files name the tool and its hash. What is done with its result counts too.
fn digest(files: &[(&str, &str)]) -> String {
    let mut digest = Sha256::new();
    digest.update(FINISH);
    for (name, content) in files {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        digest.update((content.len() as u64).to_le_bytes());
        digest.update(content);
    }
    hex::encode(digest.finalize())
}

fn manifest(row: &GuestRow) -> Result<Manifest, SandboxFault> {
    let [(_, text), ..] = row.files else { return Err(SandboxFault::Build("a guest without files".into())) };
    toml::from_str(text).map_err(unreadable)
}

fn unreadable(error: toml::de::Error) -> SandboxFault {
    SandboxFault::Build(format!("guest.toml: {}", error.message()))
}

/// The bytes of a component made from scratch.
fn build(cache: &Cache, row: &GuestRow, progress: &dyn Progress) -> Result<Vec<u8>, SandboxFault> {
    let place = cache.path("build");
    let tool = manifest(row)?.builder;
    let made = || -> Result<Vec<u8>, SandboxFault> {
        write_files(&place, row.files).map_err(|error| SandboxFault::Cache(error.to_string()))?;
        let made = match row.route {
            Route::Pip => pip::build(cache, &tool.try_into().map_err(unreadable)?, &place, progress)?,
            Route::Npm => npm::build(cache, row, &tool.try_into().map_err(unreadable)?, &place, progress)?,
            Route::File => return Err(unbuilt(row)),
        };
        finish(made)
    };
    let bytes = made();
    let _ = fs::remove_dir_all(&place);
    bytes
}

/// How a component begins: the magic number, version 13 and the layer of components.
const COMPONENT: [u8; 8] = [0, b'a', b's', b'm', 13, 0, 1, 0];

/// The last step of every build: whatever a tool has made, this is what is sealed.
fn finish(made: Vec<u8>) -> Result<Vec<u8>, SandboxFault> {
    if !made.starts_with(&COMPONENT) {
        let said = "the tool made something that is no component; remove the cache folder and try again";
        return Err(SandboxFault::Build(said.into()));
    }
    // One core module starts and runs faster than many; one whose shape is not known stays as it is.
    Ok(merge::merge(&made).unwrap_or_else(|fault| {
        tracing::warn!(%fault, "the interpreter starts and runs more slowly than it could");
        made
    }))
}

/// Writes files into a folder that holds nothing else.
fn write_files(place: &Path, files: &[(&str, &str)]) -> io::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for (name, content) in files {
        let path = place.join(name);
        fs::create_dir_all(path.parent().unwrap_or(place))?;
        fs::write(path, content)?;
    }
    Ok(())
}

/// Runs `command` to its end; its failure says what to do.
pub(crate) fn output(mut command: Command, name: &str, advice: &str) -> Result<(), SandboxFault> {
    let ran = command.stdin(Stdio::null()).output();
    let ended = ran.map_err(|error| SandboxFault::Build(format!("{name} does not start ({error}); {advice}")))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let last: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = last.get(last.len().saturating_sub(3)..).unwrap_or_default().join(" / ");
    let last: String = super::output::harmless(&last).chars().take(240).collect();
    Err(SandboxFault::Build(format!("{name} failed ({}); {advice}. It said: {last}", ended.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_manifest_is_read_and_names_its_guest_and_its_tool() {
        for row in &GUESTS {
            let manifest = manifest(row).unwrap();
            let world = row.name.split('-').next().unwrap();
            assert_eq!((manifest.name.as_str(), manifest.world), (row.name, format!("weir:guest/{world}")));
            match row.route {
                Route::File => assert!(manifest.builder.contains_key("tool"), "for the recipe"),
                Route::Pip => {
                    let tool: pip::Tool = manifest.builder.try_into().unwrap();
                    assert!(tool.requirement.contains("=="));
                    assert_eq!(hex::decode(&tool.sha256).unwrap().len(), 32);
                }
                Route::Npm => {
                    let tool: npm::Tool = manifest.builder.try_into().unwrap();
                    let (package, version) = tool.requirement.rsplit_once('@').unwrap();
                    let (_, wanted) = row.files.iter().find(|(name, _)| *name == "tool/package.json").unwrap();
                    assert!(wanted.contains(&format!("\"{package}\": \"{version}\"")), "{}", tool.requirement);
                }
            }
        }
    }

    #[test]
    fn every_file_of_a_guest_is_carried() {
        for row in &GUESTS {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests").join(row.name);
            let mut folders = vec![root.clone()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(folder).unwrap() {
                    let path = entry.unwrap().path();
                    let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                    let made = ["__pycache__", "node_modules"].iter().any(|made| name.ends_with(made));
                    if path.is_dir() {
                        folders.extend((!made).then_some(path));
                    } else if row.route == Route::File && name != "guest.toml" {
                        // The recipe runs from a checkout.
                    } else {
                        assert!(row.files.iter().any(|(file, _)| *file == name), "{}/{name} is missing", row.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_guest_that_is_not_there_is_told_with_those_that_are() {
        let told = known("perl").unwrap_err().to_string();
        assert!(told.contains("`perl`") && told.contains("python, javascript, python-numpy"), "{told}");
    }

    #[test]
    fn only_a_component_is_sealed() {
        assert!(finish([&COMPONENT[..], b"rest"].concat()).is_ok());
        assert!(finish(b"\0asm\x01\0\0\0".to_vec()).is_err(), "a core module");
        assert!(finish(Vec::new()).is_err());
    }

    #[test]
    fn every_guest_says_how_it_is_made_ready() {
        for row in &GUESTS {
            let told = unbuilt(row).to_string();
            assert!(told.contains(row.name) && told.contains("`weir guest ") && told.len() < 400, "{told}");
        }
        let told = Guest::add("javascript", Path::new("x"), None, &Silent).unwrap_err().to_string();
        assert!(told.contains("weir guest build javascript"), "{told}");
        assert_eq!(Guest::addable().collect::<Vec<_>>(), ["python-numpy"]);
    }

    #[test]
    fn a_guest_that_nobody_added_is_told_and_its_files_are_no_other_guests() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
        let numpy = row("python-numpy").unwrap();
        assert!(stem(&cache, numpy).is_none());
        assert!(
            component(&cache, numpy, &Silent).unwrap_err().to_string().contains("weir guest add python-numpy FILE")
        );
        cache.put("python-numpy-0123456789abcdef.wasm", b"x").unwrap();
        cache.put("python-0123456789abcdef.wasm", b"xy").unwrap();
        let files = |name: &str| Guest::of(row(name).unwrap(), &cache).unwrap().files;
        assert_eq!(files("python"), [("python-0123456789abcdef.wasm".to_owned(), 2)]);
        assert_eq!(files("python-numpy"), [("python-numpy-0123456789abcdef.wasm".to_owned(), 1)]);
    }

    #[test]
    fn what_this_program_does_not_use_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path().to_owned())).unwrap();
        let stem = sources_stem(row("python").unwrap());
        let compiled = compile::name(&stem).unwrap();
        let used = [format!("{compiled}.cwasm"), format!("{compiled}-00.image"), format!("{stem}.wasm")];
        let other = ["python-0123456789abcdef.wasm".into(), format!("{stem}-0123456789abcdef.image")];
        let foreign = ["wheel-0123456789abcdef.whl".to_owned(), "python-notes".to_owned()];
        for file in used.iter().chain(&other).chain(&foreign) {
            cache.put(file, b"abc").unwrap();
        }
        let mut gone = Guest::prune(Some(folder.path().to_owned())).unwrap();
        gone.sort();
        let mut expected = other.map(|file| (file, 3));
        expected.sort();
        assert_eq!(gone, expected);
        let mut left: Vec<_> = cache.list().unwrap().into_iter().map(|(file, _)| file).collect();
        left.sort();
        let mut kept = [used.as_slice(), &foreign].concat();
        kept.sort();
        assert_eq!(left, kept);
        assert_eq!(Guest::prune(Some(folder.path().to_owned())).unwrap(), []);
    }

    #[test]
    fn a_missing_program_is_told_with_advice() {
        let told = output(Command::new("/nonexistent/python3"), "python3", "install Python").unwrap_err().to_string();
        assert!(told.contains("python3 does not start") && told.contains("install Python"), "{told}");
    }
}
