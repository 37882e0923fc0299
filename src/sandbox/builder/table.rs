//! The guests: one row each, and the files of its folder, carried by the binary so that an installed one can build.
//!
//! Adding a guest is a folder under `guests/` and a row here; the command line, the cache and the build follow.

/// The files of `guests/<name>`, which must be spelled out: each becomes a part of the binary.
macro_rules! carried {
    ($name:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../../guests/", $name, "/", $file)))),+]
    };
}

/// What turns a guest's files into a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// One pinned wheel in a private Python environment.
    Pip,
    /// A pinned tree of packages, run by Node.js.
    Npm,
    /// The operator, by the recipe in its folder: only the manifest is carried.
    File,
}

/// One guest.
#[derive(Debug)]
pub(crate) struct GuestRow {
    /// Its name: a policy's resource, and its folder.
    pub(crate) name: &'static str,
    /// Its files by their paths in the folder; the manifest is the first.
    pub(crate) files: &'static [(&'static str, &'static str)],
    /// How it is built.
    pub(crate) route: Route,
}

/// Every guest; the first is the usual one.
pub(crate) static GUESTS: [GuestRow; 3] = [
    GuestRow {
        name: "python",
        route: Route::Pip,
        files: carried!("python":
            "guest.toml",
            "wit/guest.wit",
            "src/absent.py",
            "src/cell.py",
            "src/imports.py",
            "src/library.py",
            "src/main.py",
            "src/pack.py",
            "src/packages.py",
            "src/tools.py",
            "src/values.py",
        ),
    },
    GuestRow {
        name: "javascript",
        route: Route::Npm,
        files: carried!("javascript":
            "guest.toml",
            "wit/guest.wit",
            "src/cell.js",
            "src/inspect.js",
            "src/main.js",
            "src/told.js",
            "src/tools.js",
            "src/values.js",
            "src/world.js",
            "tool/absent/binaryen/package.json",
            "tool/absent/commander/package.json",
            "tool/absent/ora/index.js",
            "tool/absent/ora/package.json",
            "tool/absent/terser/index.js",
            "tool/absent/terser/package.json",
            "tool/absent/weval/index.js",
            "tool/absent/weval/package.json",
            "tool/build.mjs",
            "tool/package-lock.json",
            "tool/package.json",
        ),
    },
    GuestRow { name: "python-numpy", route: Route::File, files: carried!("python-numpy": "guest.toml") },
];

/// The guest of this name.
pub(crate) fn row(name: &str) -> Option<&'static GuestRow> {
    GUESTS.iter().find(|row| row.name == name)
}
