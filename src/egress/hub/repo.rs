//! What the Hub calls a repository, a revision and a file, in the one form that policies pin.
//!
//! A client can write the same repository in many ways (prefixes, escapes, case, missing namespaces). Here each of them
//! becomes one value, or nothing: what has no single meaning is not asked of anybody.

use std::fmt;

use crate::model::Name;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepoKind {
    /// Weights and their code.
    Model,
    /// Data.
    Dataset,
    /// An application.
    Space,
}

impl RepoKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Model, Self::Dataset, Self::Space];

    /// The word before a repository's id in policies and in the API's `type` fields.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
            Self::Space => "space",
        }
    }

    /// The kind whose segment of an API path is `text`: `models`, `datasets`, `spaces`.
    #[must_use]
    pub fn of_plural(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| text.strip_suffix('s') == Some(kind.word()))
    }

    /// What stands before the id in addresses of files: nothing for models.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
            Self::Space => "spaces/",
        }
    }
}

/// One repository of the Hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repo {
    /// What it holds.
    pub kind: RepoKind,
    id: String,
}

/// How addresses begin that are not those of a model's files.
const BEGINNINGS: &[&str] = &["api", "models", "datasets", "spaces", "resolve-cache", "weir"];

/// Bytes of a repository's id.
const ID_BYTES: usize = 96;

impl Repo {
    /// The repository of `kind` named by the one or two `parts` of its id; `None` when they are no id.
    #[must_use]
    pub fn new(kind: RepoKind, parts: &[&str]) -> Option<Self> {
        let id = parts.join("/");
        let sound = matches!(parts.len(), 1 | 2) && id.len() <= ID_BYTES && parts.iter().all(|part| is_part(part));
        // The address of a model's file has nothing before the id, so that such an id would be read as something else.
        let sound =
            sound && !(kind == RepoKind::Model && parts.first().is_some_and(|first| BEGINNINGS.contains(first)));
        sound.then_some(Self { kind, id })
    }

    /// Reads an id with or without a namespace.
    #[must_use]
    pub fn parse(kind: RepoKind, id: &str) -> Option<Self> {
        Self::new(kind, &id.split('/').collect::<Vec<_>>())
    }

    /// Reads the form in which policies write it: `model:team/name`.
    #[must_use]
    pub fn of_policy(text: &str) -> Option<Self> {
        let (word, id) = text.split_once(':')?;
        let kind = RepoKind::ALL.into_iter().find(|kind| kind.word() == word)?;
        Self::parse(kind, id)
    }

    /// The id: `team/name`, or `name` alone.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The namespace, where it has one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.id.split_once('/').map(|(namespace, _)| namespace)
    }

    /// The name as a call's resource: `model:team/name`.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        Name::new(self.to_string()).ok()
    }

    /// Its path in the API: `models/team/name`.
    #[must_use]
    pub fn api(&self) -> String {
        format!("{}s/{}", self.kind.word(), self.id)
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.word(), self.id)
    }
}

/// Letters, digits, `-`, `_` and `.`, as the Hub has it; nothing that a path or a git address could read otherwise.
fn is_part(part: &str) -> bool {
    let plain = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let edge = |c: Option<char>| c.is_some_and(|c| !matches!(c, '-' | '.'));
    plain
        && edge(part.chars().next())
        && edge(part.chars().last())
        && !part.contains("--")
        && !part.contains("..")
        && !part.ends_with(".git")
}

/// A namespace (a user or an organisation) as the Jobs API takes it.
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    text.len() <= ID_BYTES && is_part(text)
}

/// Which state of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Revision {
    /// A commit: 40 lower-case hexadecimal digits. Always the same bytes.
    Commit(String),
    /// A branch, a tag or `refs/pr/1`: whoever owns the repository can move it at any time.
    Named(String),
}

impl Revision {
    /// Reads a revision; `None` for what no revision can be called.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if is_commit(text) {
            return Some(Self::Commit(text.to_owned()));
        }
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        let parts = text.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'));
        let sound = plain && parts && !text.is_empty() && text.len() <= 100 && !text.contains("..");
        (sound && !text.starts_with('-')).then(|| Self::Named(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Commit(text) | Self::Named(text) => text,
        }
    }

    /// The text as one segment of a path.
    #[must_use]
    pub fn segment(&self) -> String {
        self.as_str().replace('/', "%2F")
    }
}

/// True for 40 lower-case hexadecimal digits.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// True for a path below a repository's root that means one file: no empty, `.` or `..` part, no back-slash, no control
/// character, and no `%`, which some reader further on might decode once more.
#[must_use]
pub fn is_file(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let plain = |c: char| !c.is_control() && c != '\\' && c != '%';
    !path.is_empty() && path.len() <= 1024 && path.split('/').all(part) && path.chars().all(plain)
}

/// `path` with everything escaped that has a meaning in an address; `/` stays.
#[must_use]
pub fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_form() {
        for id in ["gpt2", "team/name", "Team/Name-1.0_x", "a/b"] {
            assert_eq!(Repo::parse(RepoKind::Model, id).unwrap().id(), id);
        }
        for id in ["", "/", "a/", "/a", "a//b", "a/b/c", "a/..", "../a", ".a", "a.", "-a", "a--b", "a..b", "a/b.git"] {
            assert_eq!(Repo::parse(RepoKind::Model, id), None, "{id}");
        }
        for id in ["a b", "a%2Fb", "a\\b", "a:b", "é", "a/b\n", "a@b", &"x".repeat(97)] {
            assert_eq!(Repo::parse(RepoKind::Model, id), None, "{id}");
        }
        let repo = Repo::of_policy("dataset:team/set").unwrap();
        assert_eq!((repo.to_string().as_str(), repo.api().as_str()), ("dataset:team/set", "datasets/team/set"));
        assert_eq!((Repo::of_policy("team/set"), Repo::of_policy("kernel:a/b")), (None, None));
    }

    #[test]
    fn no_model_has_an_id_that_begins_like_another_address() {
        for id in ["api/resolve-cache", "api", "datasets/squad", "spaces/x", "weir/lfs"] {
            assert_eq!(Repo::parse(RepoKind::Model, id), None, "{id}");
        }
        assert!(Repo::parse(RepoKind::Dataset, "api/x").is_some() && Repo::parse(RepoKind::Model, "apis/x").is_some());
    }

    #[test]
    fn only_forty_lower_case_digits_are_a_commit() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(Revision::parse(hash), Some(Revision::Commit(hash.into())));
        for named in ["main", "v1.0", "refs/pr/1", &hash[..39], &hash.to_uppercase(), &hash[..7]] {
            assert_eq!(Revision::parse(named), Some(Revision::Named(named.into())), "{named}");
        }
        for bad in ["", "..", "a/../b", "a b", "a%2Fb", "/a", "a/", "-a", "a?b", ".hidden", &"x".repeat(101)] {
            assert_eq!(Revision::parse(bad), None, "{bad}");
        }
        assert_eq!(Revision::parse("refs/pr/1").unwrap().segment(), "refs%2Fpr%2F1");
    }

    #[test]
    fn a_file_has_one_path() {
        assert!(is_file("a/b c/é.txt") && is_file(".gitattributes"));
        for bad in ["", "/a", "a/", "a//b", ".", "a/./b", "../a", "a\\b", "a\nb", "a\0", "a%2e", &"x".repeat(1025)] {
            assert!(!is_file(bad), "{bad}");
        }
        assert_eq!(escaped("a b/é?#.txt"), "a%20b/%C3%A9%3F%23.txt");
    }
}
