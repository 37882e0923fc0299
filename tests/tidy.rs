//! The shape of the source, kept by a test: who may use whom, how long things may be, what the core
//! may not call, and that nothing unfinished or foreign stands in the tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Who may use whom. A module may always use itself and what stands left of it here.
const GRAPH: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("shell", &["model"]),
    ("policy", &["model", "shell"]),
    ("ledger", &["model"]),
    ("risk", &["model"]),
    ("audit", &["model"]),
    ("pdp", &["model", "shell", "policy"]),
    ("pip", &["model", "policy", "ledger", "risk", "pdp"]),
    ("pep", &["model", "policy", "ledger", "risk", "audit", "pdp", "pip"]),
    ("journal", &["model", "pep", "audit"]),
    ("native", &["model", "pep"]),
    ("sandbox", &["model", "pep"]),
    ("shared", &["model", "ledger", "pep"]),
    ("surface", &["model", "pep"]),
    // A reverse proxy normalises by what a policy says of models and registries; it never decides by it.
    ("egress", &["model", "policy", "pep"]),
    (
        "cli",
        &[
            "model", "policy", "ledger", "risk", "audit", "pdp", "pip", "pep", "journal", "native", "sandbox",
            "shared", "surface", "egress",
        ],
    ),
];

/// Modules that must be pure, and what they may not name, with the way to do it instead.
const CORE: &[&str] = &["model", "shell", "policy", "ledger", "risk", "audit", "pdp", "pip", "pep"];
const BANNED_IN_CORE: &[(&str, &str)] = &[
    ("std::fs", "read files in an edge and pass the bytes"),
    ("std::net", "sockets belong to surface"),
    ("std::process", "processes belong to an edge"),
    ("std::env", "the composition root reads the environment"),
    ("std::thread", "threads belong to an edge"),
    ("SystemTime", "take a Timestamp from the Clock port"),
    ("Instant", "take a Timestamp from the Clock port"),
    ("tokio", "the core is synchronous"),
    ("wasmtime", "engines belong to sandbox"),
    ("rusqlite", "stores belong to journal"),
    ("getrandom", "randomness is passed in"),
];

/// Longest function body in lines, and longest file in lines without its tests.
const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 400;

/// Files that are longer still. A number here may only shrink, and a row must go once it is not needed.
const LONGER: &[(&str, usize)] = &[("src/policy/reader.rs", 493)];

fn sources(root: &str) -> Vec<PathBuf> {
    files(root, "rs")
}

fn files(root: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources under {root}");
    found
}

fn module_of(path: &Path) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let first = path.strip_prefix(root).ok()?.components().next()?.as_os_str().to_str()?.to_owned();
    (!first.ends_with(".rs")).then_some(first)
}

fn shown(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string()
}

/// The source without `#[cfg(test)]` modules at its end.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

#[derive(Default)]
struct Crates(BTreeSet<String>);

impl<'ast> Visit<'ast> for Crates {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut parts = path.segments.iter().map(|part| part.ident.to_string());
        if parts.next().as_deref() == Some("crate") {
            self.0.extend(parts.next());
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if let syn::UseTree::Path(root) = &item.tree
            && root.ident == "crate"
        {
            first_names(&root.tree, &mut self.0);
        }
    }
}

fn first_names(tree: &syn::UseTree, into: &mut BTreeSet<String>) {
    match tree {
        syn::UseTree::Path(path) => drop(into.insert(path.ident.to_string())),
        syn::UseTree::Name(name) => drop(into.insert(name.ident.to_string())),
        syn::UseTree::Rename(name) => drop(into.insert(name.ident.to_string())),
        syn::UseTree::Group(group) => group.items.iter().for_each(|item| first_names(item, into)),
        syn::UseTree::Glob(_) => drop(into.insert("*".into())),
    }
}

#[test]
fn modules_use_only_what_the_graph_permits() {
    let mut faults = Vec::new();
    for path in sources("src") {
        let Some(module) = module_of(&path) else { continue };
        let Some((_, permitted)) = GRAPH.iter().find(|(name, _)| *name == module) else {
            faults.push(format!("{}: module `{module}` is not in the graph", shown(&path)));
            continue;
        };
        let file = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut used = Crates::default();
        used.visit_file(&file);
        for name in used.0 {
            let known = GRAPH.iter().any(|(module, _)| *module == name);
            if (known || name == "*") && name != module && !permitted.contains(&name.as_str()) {
                faults.push(format!("{}: `{module}` must not use `{name}`", shown(&path)));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_core_names_no_clock_file_socket_thread_or_engine() {
    let mut faults = Vec::new();
    for path in sources("src") {
        if !module_of(&path).is_some_and(|module| CORE.contains(&module.as_str())) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for (word, instead) in BANNED_IN_CORE {
                if code.contains(word) {
                    faults.push(format!("{}:{}: `{word}`: {instead}", shown(&path), number + 1));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

struct Lengths<'f> {
    file: String,
    faults: &'f mut Vec<String>,
}

impl Lengths<'_> {
    fn check(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.brace_token.span;
        let lines = span.close().end().line - span.open().start().line + 1;
        if lines > FUNCTION_LINES {
            self.faults.push(format!("{}: `{name}` has {lines} lines, at most {FUNCTION_LINES}", self.file));
        }
    }
}

impl<'ast> Visit<'ast> for Lengths<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.check(&item.sig.ident, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.check(&item.sig.ident, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

#[test]
fn functions_and_files_stay_short() {
    let mut faults = Vec::new();
    for path in sources("src") {
        let text = fs::read_to_string(&path).unwrap();
        let lines = without_tests(&text).lines().count();
        let exception = LONGER.iter().find(|(name, _)| *name == shown(&path)).map(|(_, lines)| *lines);
        if lines > exception.unwrap_or(FILE_LINES) {
            faults.push(format!("{}: {lines} lines, at most {}", shown(&path), exception.unwrap_or(FILE_LINES)));
        }
        if exception.is_some_and(|most| lines < most) {
            faults.push(format!("{}: {lines} lines now; tighten its row in LONGER", shown(&path)));
        }
        let file = syn::parse_file(&text).unwrap();
        Lengths { file: shown(&path), faults: &mut faults }.visit_file(&file);
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_source_file_begins_with_what_it_is_for() {
    let headless: Vec<String> = sources("src")
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//! "))
        .map(|path| shown(&path))
        .collect();
    assert!(headless.is_empty(), "no module header: {headless:?}");
}

#[test]
fn nothing_is_unfinished() {
    let mut faults = Vec::new();
    let words = ["todo!", "unimplemented!", concat!("FIX", "ME"), concat!("XX", "X ")];
    for path in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")) {
        if path.ends_with("tests/tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) || line.trim() == "#[ignore]" {
                faults.push(format!("{}:{}: {}", shown(&path), number + 1, line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_file_at_most() {
    let holders: Vec<String> = sources("src")
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().any(|line| line.split("//").next().unwrap_or_default().contains("unsafe {"))
        })
        .map(|path| shown(&path))
        .collect();
    assert!(holders.len() <= 1, "unsafe code in {holders:?}");
}

#[test]
fn every_test_that_the_specification_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read =
        |paths: Vec<PathBuf>| paths.into_iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    let (rust, tests) = (read(sources("src")), read(sources("tests")));
    let python = read(
        [files("adapters/python/tests", "py"), files("adapters/claude-code/test", "py"), files("guests", "py")]
            .concat(),
    );
    let there = |name: &str| {
        let (rusts, pythons) = (format!("fn {name}("), format!("def {name}("));
        rust.contains(&rusts) || tests.contains(&rusts) || python.contains(&pythons)
    };
    let text = fs::read_to_string(root.join("docs/specification.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"));
    let mut missing = Vec::new();
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty() || tests.starts_with("pending"), "neither a test nor pending: {row}");
        missing.extend(names.into_iter().filter(|name| !there(name)).map(str::to_owned));
    }
    assert!(missing.is_empty(), "named in the specification and not there: {missing:?}");
}
