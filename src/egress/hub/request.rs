//! What a request to the Hub asks for: one closed list.
//!
//! A path is split, decoded once and matched; whatever is written in two ways at once (double slashes, dot segments,
//! escaped slashes where none belongs, escapes of escapes) or is not on the list is refused before anybody else reads it.

use hyper::Method;

use super::forbidden::forbidden;
use super::repo::{Repo, RepoKind, Revision, is_file, is_namespace};
use crate::model::Action;

/// Bytes of a request's path and of its query.
const PATH_BYTES: usize = 4096;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Who am I; the gate answers.
    Whoami,
    /// Whether the head of a README is in order; the gate answers.
    ValidateYaml,
    /// What a repository holds at a revision.
    Info(Repo, Option<Revision>),
    /// Its files below a folder; whether those in folders below it too.
    Tree(Repo, Revision, Option<String>, bool),
    /// What is known of some of its files.
    PathsInfo(Repo, Revision),
    /// Its branches and tags.
    Refs(Repo),
    /// One file; a `HEAD` request asks for its headers only.
    File(Repo, Revision, String),
    /// How files are to be sent to a repository.
    Preupload(Repo, Revision),
    /// A commit; true when it is to be a pull request.
    Commit(Repo, Revision, bool),
    /// Where large files are to be sent.
    LfsBatch(Repo),
    /// A step of sending a large file, by the ticket that the gate gave out for it.
    Ticket(String),
    /// A new repository.
    Create,
    /// What machines for jobs cost.
    Hardware,
    /// A job, in a namespace.
    Launch(String),
    /// The jobs of a namespace; only those at one of the stages, where any is named.
    Jobs(String, Vec<String>),
    /// One job.
    Job(String, String),
    /// What a job prints: the last lines only, where a number is given.
    Logs(String, String, Option<u32>),
    /// What a job uses.
    Metrics(String, String),
    /// Stop a job.
    Cancel(String, String),
}

/// Why a request is refused before it is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong, without a final stop.
    pub what: String,
    /// What to do instead, without a final stop.
    pub instead: &'static str,
    /// What it would have been.
    pub action: Action,
    /// What it was about, in a word for the record.
    pub about: &'static str,
}

impl Refused {
    pub(super) fn new(what: impl Into<String>, instead: &'static str) -> Self {
        Self { what: what.into(), instead, action: Action::PackageFetch, about: "request" }
    }

    /// The same, as an attempt at `action`.
    pub(super) fn of(self, action: Action, about: &'static str) -> Self {
        Self { action, about, ..self }
    }
}

/// What the gate offers, for whoever asked for something else.
const OFFERED: &str = "files of pinned repositories, uploads to granted ones, and jobs can be asked for";

/// Reads a request's method, path and query, all of them as they stood on the wire.
///
/// # Errors
/// [`Refused`] for anything that is not on the list.
pub fn read(method: &Method, path: &str, query: Option<&str>) -> Result<Ask, Refused> {
    if path.len() > PATH_BYTES || query.is_some_and(|query| query.len() > PATH_BYTES) {
        return Err(Refused::new("the address is too long", OFFERED));
    }
    let segments = segments(path)?;
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let pairs = pairs(query)?;
    let asked = match parts.as_slice() {
        ["api", rest @ ..] => api(method, rest, &pairs),
        ["weir", "lfs", ticket] => Ok(Ask::Ticket((*ticket).to_owned())),
        other => file(method, other),
    };
    asked.map_err(|fault| match fault {
        Miss::Known(refused) => refused,
        Miss::Unknown => {
            let known = forbidden(method, &parts);
            known.unwrap_or_else(|| Refused::new("this is not on the list of what the Hub may be asked", OFFERED))
        }
    })
}

/// Why no ask was found.
enum Miss {
    Known(Refused),
    Unknown,
}

impl From<Refused> for Miss {
    fn from(refused: Refused) -> Self {
        Self::Known(refused)
    }
}

/// The segments of `path`, each decoded once.
fn segments(path: &str) -> Result<Vec<String>, Refused> {
    let refused = || Refused::new("the address can be read in two ways", "write it without `//`, `.`, `..` or `%25`");
    let rest = path.strip_prefix('/').ok_or_else(refused)?;
    rest.split('/').map(|segment| decoded(segment).ok_or_else(refused)).collect()
}

/// One segment decoded; `None` when it is empty, a dot segment, or decodes to something that could be read once more.
fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => (digit(rest.next()?)? << 4) | digit(rest.next()?)?,
            0x21..=0x7e => byte,
            _ => return None,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    let plain = text.chars().all(|c| !c.is_control() && !matches!(c, '%' | '\\' | '?' | '#'));
    let dots = text.split('/').any(|part| matches!(part, "" | "." | ".."));
    (plain && !dots).then_some(text)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The names and values of a query, decoded once; a name that is there twice keeps both.
fn pairs(query: Option<&str>) -> Result<Vec<(String, String)>, Refused> {
    let refused = || Refused::new("the address has a query that cannot be read", "send it without one");
    form(query.unwrap_or_default(), 64).ok_or_else(refused)
}

/// The names and values of a form or a query, at most `most` of them; `None` when it cannot be read.
pub(super) fn form(text: &str, most: usize) -> Option<Vec<(String, String)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((value_of(name)?, value_of(value)?))
    };
    let pairs: Option<Vec<_>> = text.split('&').take(most.saturating_add(1)).map(pair).collect();
    pairs.filter(|pairs| pairs.len() <= most)
}

fn value_of(text: &str) -> Option<String> {
    let text = text.replace('+', "%20");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(if byte == b'%' { (digit(rest.next()?)? << 4) | digit(rest.next()?)? } else { byte });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

type Pairs = [(String, String)];

/// The one value of `name`.
fn one<'p>(pairs: &'p Pairs, name: &str) -> Result<Option<&'p str>, Miss> {
    let mut values = pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let first = values.next();
    if values.next().is_some() {
        return Err(Refused::new(format!("`{name}` is in the query more than once"), "write it once").into());
    }
    Ok(first)
}

/// Refuses whatever is in the query besides `known`.
fn only(pairs: &Pairs, known: &[&str]) -> Result<(), Miss> {
    match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => {
            let shown: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
            Err(Refused::new(format!("`{shown}` in the query is not known"), "leave it out").into())
        }
        None => Ok(()),
    }
}

fn api(method: &Method, parts: &[&str], pairs: &Pairs) -> Result<Ask, Miss> {
    match (method.as_str(), parts) {
        ("GET", ["whoami-v2"]) => Ok(Ask::Whoami),
        ("POST", ["validate-yaml"]) => Ok(Ask::ValidateYaml),
        ("POST", ["repos", "create"]) => only(pairs, &[]).map(|()| Ask::Create),
        ("GET", ["jobs", "hardware"]) => Ok(Ask::Hardware),
        (_, ["jobs", rest @ ..]) => job(method, rest, pairs),
        ("GET" | "HEAD", ["resolve-cache", plural, rest @ ..]) => {
            let kind = RepoKind::of_plural(plural).ok_or(Miss::Unknown)?;
            let (repo, rest) = repo(kind, rest)?;
            let [revision, path @ ..] = rest else { return Err(Miss::Unknown) };
            at_file(repo, revision, path)
        }
        (_, [plural, rest @ ..]) => {
            let kind = RepoKind::of_plural(plural).ok_or(Miss::Unknown)?;
            let (repo, rest) = repo(kind, rest)?;
            of_repo(method, repo, rest, pairs)
        }
        _ => Err(Miss::Unknown),
    }
}

/// What may follow a repository's id. None of them is taken as a name, so that `gpt2/tree/main` has one reading.
const VERBS: &[&str] = &[
    "revision",
    "tree",
    "paths-info",
    "refs",
    "preupload",
    "commit",
    "resolve",
    "commits",
    "branch",
    "tag",
    "settings",
    "discussions",
    "xet-read-token",
    "xet-write-token",
    "lfs-files",
    "super-squash",
    "duplicate",
    "blob",
    "raw",
    "like",
    "likers",
    "hardware",
    "secrets",
    "variables",
    "runtime",
    "sleeptime",
    "pause",
    "restart",
    "dev-mode",
    "volumes",
    "logs",
    "auth-check",
    "safetensors-metadata",
    "leaderboard",
    "user-access-request",
];

/// The repository at the beginning of `parts`, and what follows.
fn repo<'p, 's>(kind: RepoKind, parts: &'p [&'s str]) -> Result<(Repo, &'p [&'s str]), Miss> {
    let first = *parts.first().ok_or(Miss::Unknown)?;
    let short = parts.get(1).is_some_and(|second| VERBS.contains(second) || is_bare_commit(parts));
    let (id, rest) = if parts.len() == 1 || short { parts.split_at(1) } else { parts.split_at(2) };
    if VERBS.contains(&first) {
        return Err(Refused::new("a repository's name is a word of the API", "use another repository").into());
    }
    let repo = Repo::new(kind, id).ok_or_else(|| Refused::new("this is no repository's id", "write `team/name`"))?;
    Ok((repo, rest))
}

/// `gpt2/<commit>/file` as cached addresses have it: the second segment is a commit and the third is none.
fn is_bare_commit(parts: &[&str]) -> bool {
    let commit = |at: usize| parts.get(at).is_some_and(|part| super::repo::is_commit(part));
    commit(1) && !commit(2)
}

fn revision(text: &str) -> Result<Revision, Miss> {
    let refused = || Refused::new("this is no revision", "name the pinned commit, 40 hexadecimal digits");
    Revision::parse(text).ok_or_else(|| refused().into())
}

fn of_repo(method: &Method, repo: Repo, rest: &[&str], pairs: &Pairs) -> Result<Ask, Miss> {
    match (method.as_str(), rest) {
        ("GET", []) => Ok(Ask::Info(repo, None)),
        ("GET", ["revision", at]) => Ok(Ask::Info(repo, Some(revision(at)?))),
        ("GET", ["refs"]) => Ok(Ask::Refs(repo)),
        ("GET", ["tree", at, folder @ ..]) => {
            let folder = (!folder.is_empty()).then(|| folder.join("/"));
            if folder.as_deref().is_some_and(|folder| !is_file(folder)) {
                return Err(Refused::new("this is no folder of a repository", "name a folder below its root").into());
            }
            let deep = one(pairs, "recursive")?.is_some_and(|value| value.eq_ignore_ascii_case("true") || value == "1");
            Ok(Ask::Tree(repo, revision(at)?, folder, deep))
        }
        ("POST", ["paths-info", at]) => Ok(Ask::PathsInfo(repo, revision(at)?)),
        ("POST", ["preupload", at]) => {
            only(pairs, &["create_pr"])?;
            Ok(Ask::Preupload(repo, revision(at)?))
        }
        ("POST", ["commit", at]) => {
            only(pairs, &["create_pr"])?;
            let request = match one(pairs, "create_pr")? {
                None | Some("0") => false,
                Some("1") => true,
                Some(_) => return Err(Refused::new("`create_pr` is 0 or 1", "write one of them").into()),
            };
            Ok(Ask::Commit(repo, revision(at)?, request))
        }
        _ => Err(Miss::Unknown),
    }
}

fn job(method: &Method, parts: &[&str], pairs: &Pairs) -> Result<Ask, Miss> {
    let (Some(namespace), rest) = (parts.first(), parts.get(1..).unwrap_or_default()) else {
        return Err(Miss::Unknown);
    };
    if !is_namespace(namespace) {
        return Err(Refused::new("this is no namespace", "name a user or an organisation").into());
    }
    let space = (*namespace).to_owned();
    let id = |id: &str| {
        let plain = (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if plain { Ok(id.to_owned()) } else { Err(Miss::from(Refused::new("this is no job's id", "list the jobs"))) }
    };
    match (method.as_str(), rest) {
        ("POST", []) => only(pairs, &[]).map(|()| Ask::Launch(space)),
        ("GET", []) => {
            let stages = pairs.iter().filter(|(name, _)| name == "stage").map(|(_, stage)| stage.clone()).collect();
            Ok(Ask::Jobs(space, stages))
        }
        ("GET", [job]) => Ok(Ask::Job(space, id(job)?)),
        ("GET", [job, "logs"]) => {
            let tail = one(pairs, "tail")?.map(str::parse).transpose();
            let tail = tail.map_err(|_| Refused::new("`tail` is a number of lines", "write a whole number"))?;
            Ok(Ask::Logs(space, id(job)?, tail))
        }
        ("GET", [job, "metrics"]) => Ok(Ask::Metrics(space, id(job)?)),
        ("POST", [job, "cancel"]) => Ok(Ask::Cancel(space, id(job)?)),
        _ => Err(Miss::Unknown),
    }
}

/// Addresses outside the API: files, and git's for large files.
fn file(method: &Method, parts: &[&str]) -> Result<Ask, Miss> {
    let (kind, rest) = match parts {
        ["datasets", rest @ ..] => (RepoKind::Dataset, rest),
        ["spaces", rest @ ..] => (RepoKind::Space, rest),
        rest => (RepoKind::Model, rest),
    };
    if let ("POST", [id @ .., last, "info", "lfs", "objects", "batch"]) = (method.as_str(), rest) {
        let name = last.strip_suffix(".git").ok_or(Miss::Unknown)?;
        let id: Vec<&str> = id.iter().copied().chain([name]).collect();
        let repo = Repo::new(kind, &id).ok_or_else(|| Refused::new("this is no repository's id", "write `team/name`"));
        return Ok(Ask::LfsBatch(repo?));
    }
    if !matches!(method.as_str(), "GET" | "HEAD") {
        return Err(Miss::Unknown);
    }
    let (repo, rest) = repo(kind, rest)?;
    match rest {
        ["resolve", revision, path @ ..] => at_file(repo, revision, path),
        _ => Err(Miss::Unknown),
    }
}

fn at_file(repo: Repo, at: &str, path: &[&str]) -> Result<Ask, Miss> {
    let refused = |what: &str| Refused::new(what, "name one file below the repository's root");
    let at = Revision::parse(at).ok_or_else(|| refused("this is no revision"))?;
    let path = path.join("/");
    if is_file(&path) { Ok(Ask::File(repo, at, path)) } else { Err(refused("this is no file's path").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn ask(line: &str) -> Result<Ask, Refused> {
        let (method, address) = line.split_once(' ').unwrap();
        let (path, query) = address.split_once('?').map_or((address, None), |(path, query)| (path, Some(query)));
        read(&method.parse().unwrap(), path, query)
    }

    fn model(id: &str) -> Repo {
        Repo::parse(RepoKind::Model, id).unwrap()
    }

    fn at(text: &str) -> Revision {
        Revision::parse(text).unwrap()
    }

    #[test]
    fn every_way_to_write_a_request_has_one_reading() {
        let config = || "config.json".to_owned();
        let data = || Repo::parse(RepoKind::Dataset, "squad").unwrap();
        let space = || "team".to_owned();
        let cases = [
            ("GET /api/whoami-v2", Ask::Whoami),
            ("GET /api/models/gpt2", Ask::Info(model("gpt2"), None)),
            ("GET /api/models/team/name?blobs=true", Ask::Info(model("team/name"), None)),
            ("GET /api/models/gpt2/revision/refs%2Fpr%2F1", Ask::Info(model("gpt2"), Some(at("refs/pr/1")))),
            ("GET /api/models/t/n/tree/main?recursive=True", Ask::Tree(model("t/n"), at("main"), None, true)),
            ("GET /api/models/gpt2/tree/v1/a%2Fb", Ask::Tree(model("gpt2"), at("v1"), Some("a/b".into()), false)),
            ("GET /api/datasets/squad/refs", Ask::Refs(data())),
            ("POST /api/models/t/n/paths-info/main", Ask::PathsInfo(model("t/n"), at("main"))),
            ("HEAD /gpt2/resolve/main/config.json", Ask::File(model("gpt2"), at("main"), config())),
            ("GET /t/n/resolve/main/config.json?download=true", Ask::File(model("t/n"), at("main"), config())),
            ("GET /datasets/squad/resolve/v1/a/b%20c", Ask::File(data(), at("v1"), "a/b c".into())),
            ("GET /t/%6E/resolve/main/config%2Ejson", Ask::File(model("t/n"), at("main"), config())),
            ("POST /api/models/t/n/preupload/main", Ask::Preupload(model("t/n"), at("main"))),
            ("POST /api/models/t/n/commit/main?create_pr=1", Ask::Commit(model("t/n"), at("main"), true)),
            ("POST /datasets/squad.git/info/lfs/objects/batch", Ask::LfsBatch(data())),
            ("POST /t/n.git/info/lfs/objects/batch", Ask::LfsBatch(model("t/n"))),
            ("POST /api/repos/create", Ask::Create),
            ("GET /api/jobs/hardware", Ask::Hardware),
            ("POST /api/jobs/team", Ask::Launch(space())),
            ("GET /api/jobs/team?stage=RUNNING", Ask::Jobs(space(), vec!["RUNNING".into()])),
            ("GET /api/jobs/team/1a", Ask::Job(space(), "1a".into())),
            ("GET /api/jobs/team/1a/logs?tail=7", Ask::Logs(space(), "1a".into(), Some(7))),
            ("GET /api/jobs/team/1a/metrics", Ask::Metrics(space(), "1a".into())),
            ("POST /api/jobs/team/1a/cancel", Ask::Cancel(space(), "1a".into())),
            ("PUT /weir/lfs/abc", Ask::Ticket("abc".into())),
        ];
        for (line, wanted) in cases {
            assert_eq!(ask(line), Ok(wanted), "{line}");
        }
        let cached = format!("GET /api/resolve-cache/models/gpt2/{AT}/a/b");
        assert_eq!(ask(&cached), Ok(Ask::File(model("gpt2"), at(AT), "a/b".into())));
        let cached = format!("GET /api/resolve-cache/datasets/t/n/{AT}/a");
        let set = Repo::parse(RepoKind::Dataset, "t/n").unwrap();
        assert_eq!(ask(&cached), Ok(Ask::File(set, at(AT), "a".into())));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for line in [
            "GET //api/whoami-v2",
            "GET /api//models/gpt2",
            "GET /api/./models/gpt2",
            "GET /api/models/../jobs/hardware",
            "GET /api/models/%2e%2e/x",
            "GET /api/models/team%2Fname",
            "GET /api/models/gpt2/",
            "GET /api/models/a%252Fb",
            "GET /gpt2/resolve/main/..%2F..%2Fetc",
            "GET /gpt2/resolve/main/%00",
            "GET /gpt2/resolve/main/a%5Cb",
            "GET /gpt2/resolve/main/a%",
            "GET /gpt2/resolve/main/a%zz",
            "GET /gpt2/resolve/main/%ff",
            "GET /gpt2\t",
            "GET /gpt2/resolve/main/a%3Fb",
            "GET /gpt2/resolve//config.json",
            "GET /tree/resolve/main/x",
            "GET ",
            "GET /api/models/revision/tree/main",
            "GET /API/models/gpt2",
            "GET /api/Models/gpt2",
            "GET /gpt2/Resolve/main/x",
            "GET /gpt2/resolve/%20/x",
            "POST /t/n/info/lfs/objects/batch",
            "GET /t/n.git/info/refs",
        ] {
            assert!(ask(line).is_err(), "{line}");
        }
        assert!(ask(&format!("GET /gpt2/resolve/main/{}", "x".repeat(5000))).is_err());
        assert!(ask(&format!("GET /api/models/gpt2?{}", "a&".repeat(100))).is_err());
    }

    #[test]
    fn what_is_not_on_the_list_is_refused_with_its_reason() {
        for (line, word) in [
            ("POST /api/scheduled-jobs/team", "scheduled"),
            ("PUT /api/jobs/team/1/labels", "labels"),
            ("POST /api/jobs/team/1/duplicate", "copy"),
            ("POST /api/jobs/team/1/expose", "port"),
            ("DELETE /api/jobs/team/1", "cancelled"),
            ("POST /api/spaces/t/n/hardware", "machine"),
            ("POST /api/spaces/t/n/secrets", "secrets"),
            ("DELETE /api/repos/delete", "deleted"),
            ("PUT /api/models/t/n/settings", "settings"),
            ("POST /api/models/t/n/discussions/1/merge", "discussions"),
            ("DELETE /api/models/t/n/branch/main", "branches"),
            ("POST /api/settings/webhooks", "webhooks"),
            ("GET /api/models/t/n/xet-write-token/main", "Xet"),
            ("POST /api/buckets/t/n/batch", "buckets"),
            ("GET /api/models?search=x", "searching"),
            ("GET /t/n/blob/main/x", "list"),
            ("DELETE /gpt2/resolve/main/x", "list"),
            ("POST /api/models/t/n/commit/main?hot_reload=1", "hot_reload"),
            ("POST /api/models/t/n/commit/main?create_pr=1&create_pr=0", "more than once"),
            ("POST /api/jobs/team?x=1", "query"),
        ] {
            let refused = ask(line).expect_err(line);
            assert!(refused.what.contains(word), "{line}: {}", refused.what);
        }
    }
}
