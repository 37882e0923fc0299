//! The route of a guest that the operator has built by the recipe in its folder: the component comes as a file.
//!
//! It is looked at before anything of it is compiled: its size, its imports and exports, and the stamp of the sources
//! that it was made of, because a guest that answers in the words of another version fails in the middle of a
//! session. What it computes is not looked at: the operator vouches for that, and both walls stand around it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wasmparser::{Chunk, ComponentExternalKind, Parser, Payload, Validator, WasmFeatures};

use super::{GuestRow, Progress, SandboxFault, digest, finish, known, table::row};
use crate::sandbox::cache::{Cache, Verified};
use crate::sandbox::compile;

/// Bytes of a component, at most.
const BYTES: u64 = 256 << 20;
/// The guest whose programs' form such a component has, and of whose sources it is made.
const PLAIN: &str = "python";
/// The custom section that says of which sources it is made.
const STAMP: &str = "weir:sources";
/// What the gate gives a guest.
const GATE: &str = "weir:guest/host";

/// A component that was taken in.
pub(super) struct Added {
    /// SHA-256 of the file, hexadecimal.
    pub(super) digest: String,
}

impl Added {
    /// The one in use for `row`, unless it is of other sources than this program's.
    pub(super) fn current(cache: &Cache, row: &GuestRow) -> Option<Self> {
        let note = cache.sealed(&note(row))?;
        let text = std::fs::read_to_string(note.path()).ok()?;
        let (digest, sources) = text.trim_end().split_once(' ')?;
        (sources == form()).then(|| Self { digest: digest.to_owned() })
    }

    /// The name under which everything made from it is kept.
    pub(super) fn stem(&self, row: &GuestRow) -> String {
        format!("{}-{}", row.name, self.digest.get(..16).unwrap_or_default())
    }

    /// Its component.
    pub(super) fn component(&self, cache: &Cache, row: &GuestRow) -> Option<Verified> {
        cache.sealed(&format!("{}.wasm", self.stem(row)))
    }
}

/// Takes the component in `file` for the guest `name`, compiles it and tries it; from then on it is that guest.
///
/// # Errors
/// [`SandboxFault`]; the one before, if there is one, stays in use.
pub(super) fn add(cache: &Cache, name: &str, file: &Path, progress: &dyn Progress) -> Result<(), SandboxFault> {
    let row = known(name)?;
    let bytes = read(file, BYTES)?;
    check(&bytes, &sources())?;
    let added = Added { digest: hex::encode(Sha256::digest(&bytes)) };
    let stem = added.stem(row);
    let taken = || {
        let made = compile::ready(cache, &stem, progress, || {
            let _lock = cache.lock()?;
            progress.step("joining the component's modules");
            cache.put(&format!("{stem}.wasm"), &finish(bytes)?)
        });
        made?;
        cache.put(&note(row), format!("{} {}\n", added.digest, form()).as_bytes())
    };
    taken().map(drop).inspect_err(|_| drop(cache.remove(&format!("{stem}.wasm"))))
}

/// The file that says which component is in use.
fn note(row: &GuestRow) -> String {
    format!("{}.added", row.name)
}

/// What a component in the cache must have been made for: the plain guest's sources, and what is done to every component.
fn form() -> String {
    row(PLAIN).map(|plain| digest(plain.files)).unwrap_or_default()
}

/// SHA-256 over the plain guest's files in the order of their names: for each its name and its content, each after its
/// length in eight bytes, the least first. The recipe's `sources` is the same.
fn sources() -> String {
    let mut files: Vec<_> = row(PLAIN).map(|plain| plain.files.to_vec()).unwrap_or_default();
    files.sort_unstable();
    let mut digest = Sha256::new();
    for part in files.iter().flat_map(|(name, content)| [name, content]) {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    hex::encode(digest.finalize())
}

fn read(file: &Path, most: u64) -> Result<Vec<u8>, SandboxFault> {
    let told = |error: std::io::Error| refused(format!("the file cannot be read ({error})"));
    let opened = File::open(file).map_err(told)?;
    if !opened.metadata().map_err(told)?.is_file() {
        return Err(refused("it is not an ordinary file"));
    }
    let mut bytes = Vec::new();
    opened.take(most + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() as u64 > most {
        return Err(refused(format!("the file has more than {most} bytes")));
    }
    Ok(bytes)
}

fn refused(why: impl Into<String>) -> SandboxFault {
    SandboxFault::Added(why.into())
}

/// Whether `component` can be a guest made of `sources`.
fn check(component: &[u8], sources: &str) -> Result<(), SandboxFault> {
    let malformed = |error: wasmparser::Error| refused(format!("it is not a valid component: {error}"));
    if !component.starts_with(&super::COMPONENT) {
        return Err(refused("it is not a WebAssembly component; give the file that the recipe wrote"));
    }
    Validator::new_with_features(WasmFeatures::all()).validate_all(component).map_err(malformed)?;
    let (mut runs, mut asks, mut stamp) = (false, false, None);
    let (mut parser, mut at) = (Parser::new(0), 0);
    loop {
        let rest = component.get(at..).unwrap_or_default();
        let Chunk::Parsed { payload, consumed } = parser.parse(rest, true).map_err(malformed)? else {
            return Err(refused("it ends early"));
        };
        at += consumed;
        match payload {
            Payload::End(_) => break,
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                at = unchecked_range.end;
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    asks |= imported(import.map_err(malformed)?.name.name)?;
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(malformed)?;
                    runs |= export.name.name == "run" && export.kind == ComponentExternalKind::Func;
                }
            }
            Payload::CustomSection(section) if section.name() == STAMP => stamp = Some(section.data()),
            _ => {}
        }
    }
    if !runs || !asks {
        return Err(refused(format!("it is no guest: one exports `run` and imports `{GATE}`")));
    }
    if stamp != Some(sources.as_bytes()) {
        return Err(refused(
            "it was made of other sources than those of this `weir`; build it again beside this version",
        ));
    }
    Ok(())
}

/// Whether an import is the gate; one that no guest may have is refused.
fn imported(name: &str) -> Result<bool, SandboxFault> {
    if name == GATE || name.starts_with("wasi:") {
        return Ok(name == GATE);
    }
    let name: String = name.chars().take(60).collect();
    Err(refused(format!("it imports `{}`, which no guest is given", name.escape_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component with these imports, which exports a function under `export`.
    fn component(imports: &[&str], export: &str, stamp: Option<&str>) -> Vec<u8> {
        let imports: String = imports.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
        let text = format!(
            "(component {imports} (core module $m (func (export \"f\"))) (core instance $i (instantiate $m)) \
             (func $f (canon lift (core func $i \"f\"))) (export \"{export}\" (func $f)))"
        );
        let mut bytes = wat::parse_str(text).unwrap();
        bytes.extend(stamp.map(stamped).unwrap_or_default());
        bytes
    }

    /// The custom section as the recipe writes it.
    fn stamped(sources: &str) -> Vec<u8> {
        let mut section = vec![0, u8::try_from(1 + STAMP.len() + sources.len()).unwrap(), STAMP.len() as u8];
        section.extend(STAMP.as_bytes());
        section.extend(sources.as_bytes());
        section
    }

    fn told(component: &[u8]) -> String {
        check(component, &sources()).unwrap_err().to_string()
    }

    #[test]
    fn only_a_guest_of_this_version_is_taken() {
        let sources = sources();
        let stamp = Some(sources.as_str());
        let wasi = "wasi:clocks/wall-clock@0.2.0";
        check(&component(&[GATE, wasi], "run", stamp), &sources).unwrap();
        assert!(told(b"").contains("not a WebAssembly component"));
        assert!(told(b"\0asm\x01\0\0\0").contains("not a WebAssembly component"), "a core module");
        assert!(told(&super::super::COMPONENT[..7]).contains("not a WebAssembly component"));
        let whole = component(&[GATE], "run", stamp);
        assert!(told(&whole[..40]).contains("not a valid component"), "{}", told(&whole[..40]));
        assert!(told(&component(&[GATE], "start", stamp)).contains("exports `run`"));
        assert!(told(&component(&[wasi], "run", stamp)).contains("imports `weir:guest/host`"));
        let foreign = told(&component(&[GATE, "evil:host/keys"], "run", stamp));
        assert!(foreign.contains("`evil:host/keys`, which no guest is given"), "{foreign}");
        for other in [None, Some("0".repeat(64)), Some(String::new())] {
            let told = told(&component(&[GATE], "run", other.as_deref()));
            assert!(told.contains("other sources") && told.len() < 400, "{told}");
        }
    }

    #[test]
    fn what_is_damaged_is_never_a_panic_and_never_taken_for_another() {
        let sources = sources();
        let whole = component(&[GATE], "run", Some(&sources));
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x15;
            drop(check(&damaged, &sources));
            assert!(check(&whole[..at], &sources).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_file_is_ordinary_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        assert!(read(&file, 4).unwrap_err().to_string().contains("cannot be read"));
        assert!(read(folder.path(), 4).unwrap_err().to_string().contains("not an ordinary file"));
        std::fs::write(&file, b"1234").unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"1234");
        assert!(read(&file, 3).unwrap_err().to_string().contains("more than 3 bytes"));
    }

    #[test]
    fn the_recipe_stamps_the_same_sources() {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/python-numpy");
        let code = "import build, sys; sys.stdout.write(build.stamp(build.sources()).hex())";
        let mut python = std::process::Command::new("python3");
        let said = python.args(["-B", "-c", code]).current_dir(recipe).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(String::from_utf8(said.stdout).unwrap(), hex::encode(stamped(&sources())));
    }
}
