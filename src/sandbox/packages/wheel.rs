//! One wheel, read strictly: the archive that the policy pins, pure Python, and nothing in it that reaches out of it.
//!
//! Everything happens in memory and within bounds; nothing is ever unpacked to a path. What comes out is a list of
//! modules and other files by their names in the guest. This file must not run or compile anything.

use std::collections::BTreeMap;
use std::io::{Cursor, Read as _};

use zip::{CompressionMethod, ZipArchive};

use super::{label, record};
use crate::model::{Digest, Package};

/// Bytes of a wheel.
pub(crate) const WHEEL: usize = 64 << 20;
/// Entries of one.
const ENTRIES: usize = 20_000;
/// Bytes of one file in it: it travels to the guest in one message.
const FILE: usize = 5 << 20;
/// Bytes of all its files.
const UNPACKED: usize = 160 << 20;
/// How much more its files may be than the wheel itself, beside a first MiB.
const RATIO: usize = 100;
/// Bytes of a name, and folders in it.
const NAME: usize = 240;
const DEPTH: usize = 20;
/// Endings of machine code.
const MACHINE: [&str; 7] = [".so", ".pyd", ".dll", ".dylib", ".a", ".exe", ".wasm"];
/// How files of machine code begin: ELF, WebAssembly, Mach-O in four forms.
const MAGIC: [[u8; 4]; 6] = [
    *b"\x7fELF",
    *b"\0asm",
    [0xfe, 0xed, 0xfa, 0xce],
    [0xfe, 0xed, 0xfa, 0xcf],
    [0xce, 0xfa, 0xed, 0xfe],
    [0xcf, 0xfa, 0xed, 0xfe],
];
/// What of a wheel's description is kept for `importlib.metadata`.
const DESCRIPTION: [&str; 4] = ["METADATA", "WHEEL", "entry_points.txt", "top_level.txt"];

/// Why a wheel is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WheelFault {
    /// Other bytes than those that the policy pins.
    #[error("it has {0}, which is not the digest that the policy pins")]
    Digest(Digest),
    /// No archive, or one whose parts contradict each other.
    #[error("it is not a sound zip file: {0}")]
    Zip(String),
    /// Too much of something.
    #[error("it has more than {1} {0}")]
    Limit(&'static str, usize),
    /// An entry that no wheel needs.
    #[error("its entry `{0}` {1}")]
    Entry(String, &'static str),
    /// Machine code, or a promise of it.
    #[error("it is not pure Python: {0}")]
    Native(String),
    /// `RECORD` and the files differ.
    #[error("its RECORD does not hold: {0} (`{1}`)")]
    Record(&'static str, String),
    /// The wheel of something else.
    #[error("it says that it is {0}")]
    Other(String),
    /// Not a wheel as they are known.
    #[error("it is not a wheel: {0}")]
    Form(&'static str),
}

/// One file of a package as the guest gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Its path below the packages' root.
    pub(crate) path: String,
    /// The dotted name of the module that it is, if it is one.
    pub(crate) module: Option<String>,
    /// Its bytes.
    pub(crate) content: Vec<u8>,
}

/// A wheel that holds what its pin says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wheel {
    /// Its files, by path.
    pub(crate) pieces: Vec<Piece>,
    /// The modules that it brings, sorted.
    pub(crate) tops: Vec<String>,
    /// Distributions that it cannot do without, by their compared names.
    pub(crate) requires: Vec<String>,
}

impl Wheel {
    /// Reads `bytes` as the wheel of `package`.
    ///
    /// # Errors
    /// [`WheelFault`].
    pub(crate) fn read(bytes: &[u8], package: &Package) -> Result<Self, WheelFault> {
        let digest = Digest::of(bytes);
        if digest != package.digest {
            return Err(WheelFault::Digest(digest));
        }
        let files = unpacked(bytes)?;
        let folder = description(&files)?;
        let text = |name: &str| {
            let bytes = files.get(&format!("{folder}/{name}")).map(Vec::as_slice).unwrap_or_default();
            std::str::from_utf8(bytes).map_err(|_| WheelFault::Form("its description is not UTF-8"))
        };
        label::pure(text("WHEEL")?)?;
        label::is_of(text("METADATA")?, &package.name, &package.version)?;
        record::check(text("RECORD")?, &folder, &files)?;
        let requires = label::requires(text("METADATA")?);
        let pieces = placed(files, &folder)?;
        let mut tops: Vec<String> = pieces.iter().filter_map(|piece| piece.module.as_deref()).map(top).collect();
        tops.sort();
        tops.dedup();
        if tops.is_empty() {
            return Err(WheelFault::Form("it brings no module"));
        }
        Ok(Self { pieces, tops, requires })
    }
}

fn top(module: &str) -> String {
    module.split('.').next().unwrap_or_default().to_owned()
}

fn broken(error: impl ToString) -> WheelFault {
    WheelFault::Zip(error.to_string().chars().take(120).collect())
}

/// Every file of the archive by its name.
fn unpacked(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, WheelFault> {
    if bytes.len() > WHEEL {
        return Err(WheelFault::Limit("bytes", WHEEL));
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    if archive.len() > ENTRIES {
        return Err(WheelFault::Limit("entries", ENTRIES));
    }
    // Names that occur twice, parts that overlap, entries that only one of the two directories knows.
    archive.validate_header_consistency().map_err(broken)?;
    let most = UNPACKED.min(bytes.len().saturating_mul(RATIO).saturating_add(1 << 20));
    let (mut files, mut total) = (BTreeMap::new(), 0);
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).map_err(broken)?;
        let name = checked(entry.name_raw())?;
        let odd = |what| Err(WheelFault::Entry(name.clone(), what));
        match entry.unix_mode().unwrap_or(0) & 0o170_000 {
            0 | 0o100_000 if !entry.is_dir() => {}
            0 | 0o040_000 if entry.is_dir() => continue,
            _ => return odd("is neither a file nor a folder"),
        }
        if entry.encrypted() || !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated)
        {
            return odd("is encrypted, or compressed in an unusual way");
        }
        let mut content = Vec::new();
        let read = entry.by_ref().take(FILE as u64 + 1).read_to_end(&mut content).map_err(broken)?;
        total += read;
        if read > FILE {
            return Err(WheelFault::Limit("bytes in one file", FILE));
        }
        if total > most {
            return Err(WheelFault::Limit("bytes in all its files", most));
        }
        if is_machine_code(&name, &content) {
            return Err(WheelFault::Native(format!("`{name}` is machine code")));
        }
        files.insert(name, content);
    }
    apart(&files)?;
    Ok(files)
}

/// The name of an entry, when it leads nowhere but down.
fn checked(raw: &[u8]) -> Result<String, WheelFault> {
    let shown = || String::from_utf8_lossy(raw).chars().filter(|c| !c.is_control()).take(80).collect::<String>();
    let odd = |what| Err(WheelFault::Entry(shown(), what));
    let Ok(name) = std::str::from_utf8(raw) else { return odd("has a name that is not UTF-8") };
    if name.len() > NAME || name.split('/').count() > DEPTH {
        return odd("has a name that is too long or too deep");
    }
    if name.chars().any(|c| c.is_control() || c == '\\' || c == ':') {
        return odd("has a character in its name that no module's file has");
    }
    let plain = name.strip_suffix('/').unwrap_or(name);
    if plain.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return odd("leads out of the wheel");
    }
    Ok(name.to_owned())
}

/// Refuses a name that is a file and a folder at once.
fn apart(files: &BTreeMap<String, Vec<u8>>) -> Result<(), WheelFault> {
    let above = |path: &str| path.match_indices('/').find_map(|(at, _)| files.get_key_value(path.get(..at)?));
    match files.keys().find_map(|path| above(path)) {
        Some((path, _)) => Err(WheelFault::Entry(path.clone(), "is a file and a folder at once")),
        None => Ok(()),
    }
}

fn is_machine_code(name: &str, content: &[u8]) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let named = MACHINE.iter().any(|end| last.ends_with(end)) || last.contains(".so.");
    named || content.first_chunk::<4>().is_some_and(|start| MAGIC.contains(start))
}

/// The one folder that describes the wheel.
fn description(files: &BTreeMap<String, Vec<u8>>) -> Result<String, WheelFault> {
    let mut folders = files.keys().filter_map(|path| {
        let (folder, file) = path.split_once('/')?;
        (file == "WHEEL" && folder.ends_with(".dist-info")).then(|| folder.to_owned())
    });
    match (folders.next(), folders.next()) {
        (Some(folder), None) => Ok(folder),
        _ => Err(WheelFault::Form("it has not exactly one .dist-info with a file WHEEL")),
    }
}

/// The files as the guest gets them: what the wheel has apart for pure Python stands beside the rest, what is for
/// other places of an installation is left out.
fn placed(files: BTreeMap<String, Vec<u8>>, folder: &str) -> Result<Vec<Piece>, WheelFault> {
    let data = format!("{}.data/", folder.strip_suffix(".dist-info").unwrap_or(folder));
    let mut pieces: BTreeMap<String, Piece> = BTreeMap::new();
    for (path, content) in files {
        let path = match path.strip_prefix(&data).map(|rest| rest.split_once('/')) {
            None => path,
            Some(Some(("purelib", inner))) => inner.to_owned(),
            Some(Some(("platlib", _))) => {
                return Err(WheelFault::Native("it has files for one kind of machine".into()));
            }
            Some(_) => continue,
        };
        let told = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        if told.is_some_and(|name| !DESCRIPTION.contains(&name)) {
            continue;
        }
        let module = if told.is_none() { module(&path) } else { None };
        let piece = Piece { path: path.clone(), module, content };
        if pieces.insert(path.clone(), piece).is_some() {
            return Err(WheelFault::Entry(path, "is there twice"));
        }
    }
    Ok(pieces.into_values().collect())
}

/// The dotted name of the module in the file `path`.
fn module(path: &str) -> Option<String> {
    let stem = path.strip_suffix(".py")?;
    let stem = stem.strip_suffix("/__init__").unwrap_or(stem);
    let identifier = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c == '_' || c.is_alphabetic()) && chars.all(|c| c == '_' || c.is_alphanumeric())
    };
    // A package has a name of its own: what stands at the root is none.
    (stem != "__init__" && stem.split('/').all(identifier)).then(|| stem.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const LABEL: &str = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    const FILE_MODE: u32 = 0o100_644;

    fn crc(bytes: &[u8]) -> u32 {
        let shift = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
    }

    /// An archive written by hand, so that it can hold what no writer would make.
    fn archive(entries: &[(&str, &[u8], u32)]) -> Vec<u8> {
        let (mut body, mut directory) = (Vec::new(), Vec::new());
        for (name, content, mode) in entries {
            let (at, size) = (body.len() as u32, content.len() as u32);
            let mut shared = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
            shared.extend(crc(content).to_le_bytes());
            shared.extend(size.to_le_bytes());
            shared.extend(size.to_le_bytes());
            shared.extend((name.len() as u16).to_le_bytes());
            shared.extend([0, 0]);
            body.extend(*b"PK\x03\x04");
            body.extend(&shared);
            body.extend(name.as_bytes());
            body.extend(*content);
            directory.extend(*b"PK\x01\x02\x14\x03");
            directory.extend(&shared);
            directory.extend([0; 6]);
            directory.extend((mode << 16).to_le_bytes());
            directory.extend(at.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let count = (entries.len() as u16).to_le_bytes();
        let (size, at) = ((directory.len() as u32).to_le_bytes(), (body.len() as u32).to_le_bytes());
        let end = [&b"PK\x05\x06\0\0\0\0"[..], &count, &count, &size, &at, &[0, 0]].concat();
        [body, directory, end].concat()
    }

    fn recorded(files: &[(&str, &[u8])]) -> String {
        let hash = |content: &[u8]| URL_SAFE_NO_PAD.encode(Digest::of(content).0);
        let lines = files.iter().map(|(path, content)| format!("{path},sha256={},{}\n", hash(content), content.len()));
        lines.collect::<String>() + "x-1.0.dist-info/RECORD,,\n"
    }

    /// A wheel of `files` and `more`, which its RECORD does not name.
    fn wheel(files: &[(&str, &[u8])], more: &[(&str, &[u8], u32)]) -> Vec<u8> {
        let metadata: &[u8] = b"Metadata-Version: 2.1\nName: X\nVersion: 1.0\nRequires-Dist: need\n";
        let mut all = files.to_vec();
        all.extend([("x-1.0.dist-info/WHEEL", LABEL.as_bytes()), ("x-1.0.dist-info/METADATA", metadata)]);
        let record = recorded(&all);
        let mut entries: Vec<(&str, &[u8], u32)> = all.iter().map(|(path, text)| (*path, *text, FILE_MODE)).collect();
        entries.push(("x-1.0.dist-info/RECORD", record.as_bytes(), FILE_MODE));
        entries.extend(more);
        archive(&entries)
    }

    fn read(bytes: &[u8]) -> Result<Wheel, WheelFault> {
        let digest = Digest::of(bytes);
        let package = Package { registry: "python".into(), name: "x".into(), version: "1.0".into(), digest };
        Wheel::read(bytes, &package)
    }

    #[track_caller]
    fn refused(bytes: &[u8], told: &str) {
        let fault = read(bytes).unwrap_err().to_string();
        assert!(fault.contains(told), "{told}: {fault}");
        assert!(fault.len() < 400, "{fault}");
    }

    #[test]
    fn a_wheel_is_its_modules_and_its_data() {
        let files: [(&str, &[u8]); 8] = [
            ("x/__init__.py", b"1"),
            ("x/space/leaf.py", b"2"),
            ("x/not-a-module.py", b"3"),
            ("x/words.txt", b"4"),
            ("alone.py", b"5"),
            ("x-1.0.data/purelib/apart.py", b"6"),
            ("x-1.0.data/scripts/run", b"7"),
            ("x-1.0.dist-info/LICENSE", b"8"),
        ];
        let wheel = read(&wheel(&files, &[("x/", b"", 0o040_755)])).unwrap();
        assert_eq!(wheel.tops, ["alone", "apart", "x"]);
        assert_eq!(wheel.requires, ["need"]);
        let found: Vec<_> = wheel.pieces.iter().map(|piece| (&*piece.path, piece.module.as_deref())).collect();
        let expected = [
            ("alone.py", Some("alone")),
            ("apart.py", Some("apart")),
            ("x-1.0.dist-info/METADATA", None),
            ("x-1.0.dist-info/WHEEL", None),
            ("x/__init__.py", Some("x")),
            ("x/not-a-module.py", None),
            ("x/space/leaf.py", Some("x.space.leaf")),
            ("x/words.txt", None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../a.py", "x/../../a.py", "/etc/a.py", "x//a.py", "./a.py", "..", "x/.."] {
            refused(&wheel(&[("x.py", b"")], &[(name, b"", FILE_MODE)]), "leads out");
        }
        for name in ["C:\\a.py", "x\\..\\a.py", "c:a.py", "a\0.py", "a\n.py"] {
            refused(&wheel(&[("x.py", b"")], &[(name, b"", FILE_MODE)]), "a character in its name");
        }
        let (long, deep) = ("a".repeat(300), "a/".repeat(30));
        refused(&wheel(&[("x.py", b"")], &[(&long, b"", FILE_MODE)]), "too long or too deep");
        refused(&wheel(&[("x.py", b"")], &[(&deep, b"", 0o040_755)]), "too long or too deep");
    }

    #[test]
    fn links_devices_and_folders_that_are_files_are_refused() {
        for mode in [0o120_777, 0o010_644, 0o020_644, 0o060_644, 0o140_644, 0o040_755] {
            refused(&wheel(&[("x.py", b"")], &[("y.py", b"/etc/passwd", mode)]), "neither a file nor a folder");
        }
        refused(&wheel(&[("x.py", b""), ("x.py/y", b"")], &[]), "a file and a folder at once");
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        refused(&wheel(&[("x.py", b"1")], &[("x.py", b"2", FILE_MODE)]), "duplicate");
        refused(&wheel(&[("x.py", b"1"), ("x-1.0.data/purelib/x.py", b"2")], &[]), "is there twice");
    }

    #[test]
    fn a_file_that_is_not_as_recorded_is_refused() {
        refused(&wheel(&[("x.py", b"1")], &[("y.py", b"", FILE_MODE)]), "does not name a file (`y.py`)");
        let whole = wheel(&[("x.py", b"secure = True")], &[]);
        let at = whole.windows(4).position(|part| part == b"True").unwrap();
        let mut changed = whole.clone();
        changed[at..at + 4].copy_from_slice(b"None");
        refused(&changed, "not a sound zip file");
        let (old, new) = (crc(b"secure = True").to_le_bytes(), crc(b"secure = None").to_le_bytes());
        for at in 0..changed.len() - 4 {
            if changed[at..at + 4] == old {
                changed[at..at + 4].copy_from_slice(&new);
            }
        }
        refused(&changed, "a file is not what it says (`x.py`)");
        let gone = archive(&[("x.py", b"", FILE_MODE), ("x-1.0.dist-info/WHEEL", LABEL.as_bytes(), FILE_MODE)]);
        assert!(read(&gone).is_err(), "no METADATA, no RECORD");
    }

    #[test]
    fn machine_code_is_refused() {
        for name in ["x/fast.so", "x/fast.cpython-314-x86_64-linux-gnu.so", "lib.so.1", "x/a.PYD", "x/a.dll"] {
            refused(&wheel(&[("x.py", b""), (name, b"")], &[]), "not pure Python");
        }
        for magic in MAGIC {
            refused(&wheel(&[("x.py", b""), ("x/data.bin", &[&magic[..], b"rest"].concat())], &[]), "machine code");
        }
        refused(&wheel(&[("x.py", b""), ("x-1.0.data/platlib/y.py", b"")], &[]), "one kind of machine");
    }

    #[test]
    fn only_the_pinned_bytes_of_the_pinned_package_are_taken() {
        let bytes = wheel(&[("x.py", b"")], &[]);
        let package = |name: &str, version: &str, digest| Package {
            registry: "python".into(),
            name: name.into(),
            version: version.into(),
            digest,
        };
        let digest = Digest::of(&bytes);
        assert!(Wheel::read(&bytes, &package("x", "1.0", digest)).is_ok());
        assert_eq!(Wheel::read(&bytes, &package("x", "1.0", Digest::ZERO)), Err(WheelFault::Digest(digest)));
        for (name, version) in [("y", "1.0"), ("x", "1.1")] {
            let fault = Wheel::read(&bytes, &package(name, version, digest)).unwrap_err().to_string();
            assert!(fault.contains("it says that it is X 1.0"), "{fault}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_its_bound() {
        let packed = |files: &[(String, Vec<u8>)]| {
            let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
            let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
            for (name, content) in files {
                zip.start_file(name.as_str(), options).unwrap();
                zip.write_all(content).unwrap();
            }
            zip.finish().unwrap().into_inner()
        };
        refused(&packed(&[("x.py".into(), vec![b' '; FILE + 1])]), "bytes in one file");
        let many: Vec<_> = (0..40).map(|at| (format!("x{at}.py"), vec![b' '; 1 << 20])).collect();
        refused(&packed(&many), "bytes in all its files");
        let empty: Vec<_> = (0..=ENTRIES).map(|at| (format!("{at}"), Vec::new())).collect();
        refused(&packed(&empty), "entries");
    }

    #[test]
    fn what_is_no_wheel_is_refused_and_never_a_panic() {
        refused(b"", "not a sound zip file");
        refused(b"#!/bin/sh\nexit 1\n", "not a sound zip file");
        refused(&archive(&[]), "not a wheel");
        refused(&archive(&[("x.py", b"", FILE_MODE)]), "not a wheel");
        refused(&wheel(&[("data.txt", b"")], &[]), "it brings no module");
        refused(&wheel(&[("x.py", b""), ("y-1.0.dist-info/WHEEL", b"")], &[]), "exactly one .dist-info");
        let whole = wheel(&[("x/__init__.py", b"1"), ("x/words.txt", b"eins")], &[]);
        for at in 0..whole.len() {
            assert!(read(&whole[..at]).is_err(), "cut at {at}");
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            // Some bytes, such as a time, belong to nothing that is used.
            if let Ok(wheel) = read(&damaged) {
                assert_eq!(wheel.tops, ["x"], "byte {at}");
            }
        }
    }
}
