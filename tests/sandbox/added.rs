//! A guest whose component the operator built and added: the plain guest's own, under the other name.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, json};
use weir::model::Status;
use weir::sandbox::{Guest, Key, Sandbox, SandboxConfig, Silent};

use super::desk::{Desk, fresh, grant, key, message, wall};

/// The stamp of the sources, as the recipe writes it.
fn stamp() -> Vec<u8> {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/python-numpy");
    let code = "import build, sys; sys.stdout.buffer.write(build.stamp(build.sources()))";
    let said = Command::new("python3").args(["-B", "-c", code]).current_dir(recipe).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    said.stdout
}

/// A cache of its own with the plain guest in it, and that guest's component with what `more` is.
fn cache(folder: &Path, more: &[u8]) -> Vec<u8> {
    let plain = Guest::build("python", None, &Silent).unwrap();
    let stem = plain.stem.unwrap();
    fs::copy(plain.cache.join("seal.key"), folder.join("seal.key")).unwrap();
    for (file, _) in plain.files.iter().filter(|(file, _)| file.starts_with(&stem)) {
        for file in [file.clone(), format!("{file}.seal")] {
            fs::copy(plain.cache.join(&file), folder.join(&file)).unwrap();
        }
    }
    let mut component = fs::read(folder.join(format!("{stem}.wasm"))).unwrap();
    component.extend(more);
    component
}

#[test]
fn a_component_that_was_added_is_a_guest_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let component = cache(folder.path(), &stamp());
    let file = folder.path().join("numpy.wasm");
    let own = || Some(folder.path().to_owned());
    let sandbox = Sandbox::open(SandboxConfig { cache: own(), ..SandboxConfig::new(wall()) }).unwrap();
    let (session, desk) = (fresh(), Desk::default());
    let run = |guest: &str, code: &str| {
        let key = Key { guest: guest.into(), ..key(&session) };
        sandbox.run(&key, code, &Map::new(), &grant(), &desk)
    };

    let absent = run("python-numpy", "1 + 1");
    assert_eq!(absent.status, Status::Broken);
    assert!(message(&absent).contains("`weir guest add python-numpy FILE`"), "{}", message(&absent));
    fs::write(&file, &component[..component.len() - 1]).unwrap();
    assert!(Guest::add("python-numpy", &file, own(), &Silent).is_err(), "cut");
    fs::write(&file, cache(folder.path(), b"")).unwrap();
    let unstamped = Guest::add("python-numpy", &file, own(), &Silent).unwrap_err().to_string();
    assert!(unstamped.contains("other sources"), "{unstamped}");
    let listed = |name: &str| Guest::all(own()).unwrap().into_iter().find(|guest| guest.name == name).unwrap();
    assert!(listed("python-numpy").files.is_empty() && listed("python-numpy").digest.is_none(), "nothing was changed");

    fs::write(&file, &component).unwrap();
    let added = Guest::add("python-numpy", &file, own(), &Silent).unwrap();
    assert_eq!(
        added.digest,
        Some(weir::model::Digest::of(&component).to_string().trim_start_matches("sha256:").into())
    );
    let shown = listed("python-numpy");
    let stem = shown.stem.unwrap();
    assert!(shown.files.iter().all(|(file, _)| file.starts_with(&stem)), "{:?}", shown.files);
    assert!(shown.files.iter().any(|(file, _)| file.ends_with(".image")), "it has an image: {:?}", shown.files);
    fs::remove_file(&file).unwrap();
    assert_eq!(run("python-numpy", "x = 40; x + 2").output, json!(42), "in the gate that runs already");
    assert_eq!(run("python-numpy", "x").output, json!(40));
    let other = run("python", "x");
    assert_eq!((other.status, other.error.unwrap().kind.as_str()), (Status::Failed, "NameError"), "a guest of its own");
}
