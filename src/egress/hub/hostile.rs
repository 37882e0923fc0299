//! What every reader of the Hub's proxy promises, one function each: bytes in, and a panic where it is not kept.
//!
//! The tests below call them with damaged samples, `fuzz/` with whatever it can find; nothing else is to use them.

use hyper::Method;
use serde_json::Value;

use super::book::Seen;
use super::launch::{self, LABEL};
use super::manifest::Manifest;
use super::plan::{objects, plan};
use super::prices::{Catalogue, Rate};
use super::repo::{Repo, RepoKind, Revision, escaped, is_commit, is_file};
use super::request::{self, Ask, Refused};
use super::{commit, forbidden};
use crate::model::{Kind, Name, parse_json};

/// Addresses: what is asked for, written as the proxy itself writes it, is the same when it is read again.
pub(crate) fn requests(bytes: &[u8]) {
    let Some((method, address)) = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once(' ')) else { return };
    let Ok(method) = method.parse::<Method>() else { return };
    let (path, query) = address.split_once('?').map_or((address, None), |(path, query)| (path, Some(query)));
    match request::read(&method, path, query) {
        Err(refused) => told(&refused),
        Ok(ask) => {
            if let Some((method, path, query)) = written(&ask) {
                assert_eq!(request::read(&method, &path, query), Ok(ask), "{path}");
            }
        }
    }
    let parts: Vec<&str> = path.split('/').collect();
    forbidden::forbidden(&method, &parts).iter().for_each(told);
}

/// The one form of what is asked of a repository or of a job.
fn written(ask: &Ask) -> Option<(Method, String, Option<&'static str>)> {
    let at = |verb: &str, repo: &Repo, at: &Revision| format!("/api/{}/{verb}/{}", repo.api(), at.segment());
    let (method, path, query) = match ask {
        Ask::Info(repo, None) => (Method::GET, format!("/api/{}", repo.api()), None),
        Ask::Info(repo, Some(revision)) => (Method::GET, at("revision", repo, revision), None),
        Ask::Tree(repo, revision, folder, deep) => {
            let folder = folder.as_deref().map(|folder| format!("/{}", escaped(folder))).unwrap_or_default();
            (Method::GET, at("tree", repo, revision) + &folder, deep.then_some("recursive=1"))
        }
        Ask::PathsInfo(repo, revision) => (Method::POST, at("paths-info", repo, revision), None),
        Ask::Refs(repo) => (Method::GET, format!("/api/{}/refs", repo.api()), None),
        Ask::File(repo, revision, path) => {
            assert!(is_file(path), "{path}");
            let (prefix, id, path) = (repo.kind.prefix(), repo.id(), escaped(path));
            (Method::GET, format!("/{prefix}{id}/resolve/{}/{path}", revision.segment()), None)
        }
        Ask::Preupload(repo, revision) => (Method::POST, at("preupload", repo, revision), None),
        Ask::Commit(repo, revision, asked) => {
            (Method::POST, at("commit", repo, revision), asked.then_some("create_pr=1"))
        }
        Ask::LfsBatch(repo) => {
            let (prefix, id) = (repo.kind.prefix(), repo.id());
            (Method::POST, format!("/{prefix}{id}.git/info/lfs/objects/batch"), None)
        }
        Ask::Launch(space) => (Method::POST, format!("/api/jobs/{space}"), None),
        Ask::Job(space, id) => (Method::GET, format!("/api/jobs/{space}/{id}"), None),
        Ask::Cancel(space, id) => (Method::POST, format!("/api/jobs/{space}/{id}/cancel"), None),
        Ask::Metrics(space, id) => (Method::GET, format!("/api/jobs/{space}/{id}/metrics"), None),
        _ => return None,
    };
    Some((method, path, query))
}

/// A refusal is short, and shows nothing that a terminal would act upon.
fn told(refused: &Refused) {
    let text = [&refused.what, refused.instead].concat();
    assert!(text.len() < 400 && !text.chars().any(char::is_control), "{text:?}");
}

/// Launches: what is forwarded, read again, is what was judged, and the gate's own label stands in it.
pub(crate) fn launches(bytes: &[u8]) {
    let launch = match launch::read("team", bytes) {
        Ok(launch) => launch,
        Err(refused) => return told(&refused),
    };
    let seconds = launch.timeout_s.unwrap_or(60);
    let args = launch.args(seconds, None);
    let closed = |key: &str| match args.get(key) {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Bool(set)) => !set,
        _ => false,
    };
    if !["volumes", "ports", "ssh", "network"].into_iter().all(closed) {
        // The policy refuses it whatever else it says.
        return;
    }
    let call = Name::new("c1").expect("a name");
    let mut body = launch.body(seconds, &call, Some("token"));
    let label = body.get_mut("labels").and_then(Value::as_object_mut).and_then(|labels| labels.remove(LABEL));
    assert_eq!(label, Some(Value::from("c1")));
    let again = launch::read("team", body.to_string().as_bytes()).expect("what is forwarded can be read");
    let mut judged = launch;
    judged.timeout_s = Some(seconds);
    assert_eq!(again, judged);
}

/// Commits: every line counts, and none of them takes anything away.
pub(crate) fn commits(bytes: &[u8]) {
    let summary = match commit::read(bytes) {
        Ok(summary) => summary,
        Err(refused) => return told(&refused),
    };
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(summary.files + 1, lines.len() as u64);
    let mut large = 0;
    for line in lines.into_iter().skip(1) {
        // A second reader, which takes the last of two keys, sees the same.
        let line: Value = serde_json::from_slice(line).expect("strict JSON is JSON");
        let path = line["value"]["path"].as_str().expect("a path");
        assert!(is_file(path) && matches!(line["key"].as_str(), Some("file" | "lfsFile")), "{line}");
        large += u64::from(line["key"] == "lfsFile");
    }
    assert_eq!(summary.large, large);
}

/// What the Hub says, of files, jobs, prices and where to send something: the first byte chooses.
pub(crate) fn answers(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    match first % 4 {
        0 => listing(body),
        1 => jobs(body),
        2 => prices(body),
        _ => uploads(body),
    }
}

fn listing(body: &[u8]) {
    let manifest = || Manifest::new(Repo::parse(RepoKind::Model, "t/n").expect("an id"), "0".repeat(40));
    let (mut one, mut other) = (manifest(), manifest());
    if one.take(body).is_err() {
        return;
    }
    other.take(body).expect("as before");
    assert_eq!(one.digest(), other.digest());
    let info = one.info(true);
    let rows: Vec<&str> =
        info["siblings"].as_array().into_iter().flatten().filter_map(|s| s["rfilename"].as_str()).collect();
    for path in &rows {
        let entry = one.file(path).expect("what is listed is there");
        let digest = entry.etag();
        assert!(is_file(path) && (is_commit(digest) || commit::is_sha256(digest)), "{path}: {digest}");
    }
    if !rows.is_empty() {
        assert!(other.take(body).is_err(), "a file that is there twice");
    }
}

fn jobs(body: &[u8]) {
    let rate = Rate::new(400_000, 1);
    for seen in Seen::read_all(body).unwrap_or_default() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        assert!((1..=64).contains(&seen.id.len()) && seen.id.bytes().all(plain), "{}", seen.id);
        let Some(seconds) = seen.running_s else { continue };
        let (now, later) = (rate.of(seconds), rate.of(seconds.saturating_add(60)));
        assert!(now.of(Kind::MicroUsd) <= later.of(Kind::MicroUsd) && now.of(Kind::GpuMs) <= later.of(Kind::GpuMs));
        assert!(seconds == 0 || now.of(Kind::MicroUsd) > 0, "a started minute costs");
    }
}

fn prices(body: &[u8]) {
    let Some(catalogue) = Catalogue::read(body) else { return };
    let Ok(Value::Array(rows)) = parse_json(body) else { panic!("a catalogue is a list") };
    for row in rows {
        let name = row["name"].as_str().expect("a flavor has a name");
        let hourly = catalogue.of(name).expect("every row is read");
        assert!(hourly > 0 || row["unitCostMicroUSD"] == 0 || repeated(body, name), "{row}");
    }
}

/// True when `name` is there more than once: the last row counts.
fn repeated(body: &[u8], name: &str) -> bool {
    let rows = parse_json(body).ok().and_then(|rows| rows.as_array().cloned()).unwrap_or_default();
    rows.iter().filter(|row| row["name"] == name).count() > 1
}

/// A client's wishes, and a plan for them: everything in the plan was asked for, with the size that was asked for.
fn uploads(body: &[u8]) {
    let wanted = [("a".repeat(64), 10), ("b".repeat(64), 1 << 40)];
    match objects(body) {
        Ok(all) => assert!(all.iter().all(|(oid, _)| commit::is_sha256(oid))),
        Err(refused) => told(&refused),
    }
    for object in plan(body, &wanted).unwrap_or_default() {
        assert!(wanted.contains(&(object.oid.clone(), object.size)), "{object:?}");
        if let Some((_, Some((chunk, parts)))) = &object.upload {
            assert!(*chunk > 0 && u64::try_from(parts.len()).ok() == Some(object.size.div_ceil(*chunk)), "{object:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::mutation::Mutations;

    const EACH: usize = 8_000;

    fn damaged(promise: fn(&[u8]), samples: &[&str]) {
        samples.iter().for_each(|sample| promise(sample.as_bytes()));
        let samples = samples.iter().map(|sample| sample.as_bytes().to_vec()).collect();
        Mutations::new(11, samples).take(EACH).for_each(|bytes| promise(&bytes));
    }

    #[test]
    fn damaged_addresses_are_refused_or_mean_one_thing() {
        damaged(
            requests,
            &[
                "GET /api/models/gpt2/revision/refs%2Fpr%2F1",
                "GET /api/models/t/n/tree/main/a%2Fb?recursive=True",
                "GET /datasets/squad/resolve/v1/a/b%20c?download=true",
                "POST /api/models/t/n/commit/main?create_pr=1",
                "POST /t/n.git/info/lfs/objects/batch",
                "POST /api/jobs/team",
                "GET /api/jobs/team/1a/logs?tail=7",
                "POST /api/scheduled-jobs/team",
            ],
        );
    }

    #[test]
    fn damaged_launches_are_refused_or_forwarded_as_they_were_judged() {
        damaged(
            launches,
            &[
                r#"{"command":["python","t.py"],"arguments":["--all"],"environment":{"A":"1","B":2},"flavor":"t4-small","timeoutSeconds":60,"dockerImage":"python:3.12","labels":{"name":"x"},"secrets":{"HF_TOKEN":"x"}}"#,
                r#"{"command":["a"],"flavor":"f","dockerImage":"i","ssh":{"enabled":false},"expose":{"ports":[]},"network":{},"volumes":[],"attempts":1}"#,
                r#"{"command":["a"],"flavor":"f","dockerImage":"i","ssh":{"enabled":true},"timeoutSeconds":1e9}"#,
            ],
        );
    }

    #[test]
    fn damaged_commits_are_refused_or_only_add() {
        let large = format!(
            r#"{{"key":"lfsFile","value":{{"path":"w","algo":"sha256","oid":"{}","size":3}}}}"#,
            "a".repeat(64)
        );
        let head = r#"{"key":"header","value":{"summary":"s","description":""}}"#;
        let file = r#"{"key":"file","value":{"path":"a/b","content":"YQ==","encoding":"base64"}}"#;
        let gone = r#"{"key":"deletedFile","value":{"path":"a"}}"#;
        damaged(
            commits,
            &[&format!("{head}\n{file}\n{large}\n"), &format!("{head}\n{gone}"), &format!("{head}\n{file}")],
        );
    }

    #[test]
    fn damaged_answers_of_the_hub_are_not_taken_or_within_bounds() {
        let (blob, oid) = ("c".repeat(40), "a".repeat(64));
        damaged(
            answers,
            &[
                &format!(
                    r#"0[{{"type":"file","path":"a/b","size":3,"oid":"{blob}"}},{{"type":"directory","path":"a","oid":"x","size":0}}]"#
                ),
                &format!(
                    r#"0[{{"type":"file","path":"w","size":3,"oid":"{blob}","lfs":{{"oid":"{oid}","size":3,"pointerSize":130}}}}]"#
                ),
                r#"1[{"id":"1a","status":{"stage":"RUNNING"},"durations":{"runningSecs":61.5},"flavor":"t4-small","labels":{"weir-call":"c"}}]"#,
                r#"2[{"name":"t4-small","unitCostMicroUSD":6667,"unitLabel":"minute"}]"#,
                &format!(
                    r#"3{{"objects":[{{"oid":"{oid}","size":10,"actions":{{"upload":{{"href":"h","header":{{"chunk_size":"6","1":"x","2":"y"}}}},"verify":{{"href":"v"}}}}}}]}}"#
                ),
                &format!(r#"3{{"operation":"upload","hash_algo":"sha256","objects":[{{"oid":"{oid}","size":10}}]}}"#),
            ],
        );
    }
}
