//! Which commit of a repository a request means, and what is in it: pins of the policy and lists of files, kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::header::LINK;
use hyper::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};

use super::REGISTRY;
use super::denial::{because, of_gate};
use super::manifest::Manifest;
use super::remote::{RemoteFault, ask, told};
use super::repo::{Repo, Revision, is_commit};
use crate::egress::door::Door;
use crate::egress::error::Refusal;
use crate::egress::held::Held;
use crate::model::{Action, Digest, Limits, Name, Outcome, Resource, Status, parse_json};
use crate::policy::Pin;

/// Lists of files kept at once, and pages of one.
const KEPT: usize = 64;
const PAGES: usize = 200;

/// Lists of files by repository and commit.
#[derive(Default)]
pub(super) struct Manifests(Mutex<BTreeMap<(Repo, String), Arc<Manifest>>>);

/// A fetch that the gate has admitted: at which commit, and what the pin says of it.
pub(super) struct Admitted {
    pub held: Held,
    pub commit: String,
    /// True when files may be fetched that bring code.
    pub code: bool,
    digest: Option<Digest>,
}

/// The pin that a revision of `repo` stands for, out of those in the policy.
struct Meant {
    commit: String,
    code: bool,
    digest: Option<Digest>,
    /// The branch or tag that has to stand where the pin does.
    named: bool,
}

/// Asks the gate for `path` of `repo`. A named revision is taken for the one pin of the repository; whether it stands
/// there is looked up afterwards.
pub(super) async fn admit(
    door: &Door,
    repo: &Repo,
    revision: Option<&Revision>,
    path: &str,
) -> Result<Admitted, Refusal> {
    let meant = meant(door, repo, revision)?;
    let odd = || because("the repository's name is no name that a policy can hold", "Use another repository");
    let resource = Resource {
        name: repo.name().ok_or_else(odd)?,
        registry: Name::new(REGISTRY).ok(),
        revision: Name::new(meant.commit.as_str()).ok(),
        digest: meant.digest,
    };
    let mut args = Map::new();
    args.insert("path".into(), path.into());
    args.insert("code".into(), super::content::is_code(path).into());
    let call = door.call(door.sessions.subject(None, &[]), Action::PackageFetch, resource, args)?;
    let mut held = door.admit(call).await.map_err(of_gate)?;
    held.sent();
    let Meant { commit, code, digest, named } = meant;
    let admitted = Admitted { held, commit, code, digest };
    match revision {
        Some(revision) if named => admitted.stands(door, repo, revision).await,
        Some(_) | None => Ok(admitted),
    }
}

fn meant(door: &Door, repo: &Repo, revision: Option<&Revision>) -> Result<Meant, Refusal> {
    let compiled = door.gate.policy();
    let name = repo.to_string();
    let registry = compiled.policy().registries.get(REGISTRY);
    let pins: Vec<&Pin> =
        registry.into_iter().flat_map(|registry| &registry.pins).filter(|pin| pin.name == name).collect();
    let of = |pin: &Pin, named| Meant { commit: pin.revision.clone(), code: pin.code, digest: pin.digest, named };
    match (revision, pins.as_slice()) {
        (Some(Revision::Commit(commit)), pins) => Ok(pins.iter().find(|pin| pin.revision == *commit).map_or_else(
            || Meant { commit: commit.clone(), code: false, digest: None, named: false },
            |pin| of(pin, false),
        )),
        (_, [pin]) => Ok(of(pin, revision.is_some())),
        // The gate says what it thinks of an unpinned one, and records it.
        (revision, []) => {
            let commit = revision.map_or("main", Revision::as_str).to_owned();
            Ok(Meant { commit, code: false, digest: None, named: false })
        }
        (_, pins) => {
            let commits: Vec<&str> = pins.iter().take(3).map(|pin| pin.revision.as_str()).collect();
            let what = format!("several commits of `{name}` are pinned, and a branch or tag names none of them");
            Err(because(&what, &format!("Name one: {}", commits.join(", "))))
        }
    }
}

impl Admitted {
    /// Goes on only if the branch or tag stands at the pinned commit now.
    async fn stands(self, door: &Door, repo: &Repo, revision: &Revision) -> Result<Self, Refusal> {
        let path = format!("/api/{}/revision/{}", repo.api(), revision.segment());
        let sha = match ask(door, Method::GET, &path, None, Limits::JSON_BYTES).await {
            Ok(reply) if reply.status == StatusCode::OK => {
                parse_json(&reply.body).ok().and_then(|value| Some(value.get("sha")?.as_str()?.to_owned()))
            }
            _ => None,
        };
        let pinned = self.commit.clone();
        match sha.filter(|sha| is_commit(sha)) {
            Some(sha) if sha == pinned => Ok(self),
            found => {
                self.end(Status::Failed).await;
                let now = found.map_or_else(|| "cannot be looked up".to_owned(), |sha| format!("stands at {sha}"));
                let what = format!("`{}` of `{repo}` {now}, and the policy pins {pinned}", revision.as_str());
                Err(because(&what, &format!("Ask for revision={pinned}")))
            }
        }
    }

    /// The list of files, held to the pin's digest where it has one. Without a list the call ends here.
    pub(super) async fn manifest(
        self,
        known: &Manifests,
        door: &Door,
        repo: &Repo,
    ) -> Result<(Self, Arc<Manifest>), Refusal> {
        let manifest = match known.get(door, repo, &self.commit).await {
            Ok(manifest) => manifest,
            Err(what) => {
                self.end(Status::Broken).await;
                return Err(because(&what, "Try again later, or ask a person"));
            }
        };
        let found = manifest.digest();
        if self.digest.is_some_and(|pinned| pinned != found) {
            self.end(Status::Broken).await;
            let what = format!("the files of `{repo}` give the digest {found}, which is not the pinned one");
            return Err(because(&what, "Do not retry; ask a person to look at the pin"));
        }
        Ok((self, manifest))
    }

    /// Ends the call without any use.
    pub(super) async fn end(self, status: Status) {
        drop(self.held.complete(Outcome::of(status)).await);
    }
}

impl Manifests {
    async fn get(&self, door: &Door, repo: &Repo, commit: &str) -> Result<Arc<Manifest>, String> {
        let key = (repo.clone(), commit.to_owned());
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(known.clone());
        }
        let manifest = Arc::new(read(door, repo, commit).await?);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, manifest.clone());
        Ok(manifest)
    }
}

async fn read(door: &Door, repo: &Repo, commit: &str) -> Result<Manifest, String> {
    let start = format!("/api/{}/tree/{commit}?recursive=true", repo.api());
    let mut manifest = Manifest::new(repo.clone(), commit.to_owned());
    let mut path = start.clone();
    for _ in 0..PAGES {
        let reply = ask(door, Method::GET, &path, None, Limits::JSON_BYTES).await;
        let reply = reply.map_err(|lost| told(&RemoteFault::Lost(lost)))?;
        if reply.status != StatusCode::OK {
            return Err(format!("the Hub answered {} for the pinned commit of `{repo}`", reply.status.as_u16()));
        }
        manifest.take(&reply.body).map_err(|fault| fault.to_string())?;
        match cursor(&reply.headers) {
            Some(cursor) => path = format!("{start}&cursor={cursor}"),
            None => return Ok(manifest),
        }
    }
    Err("the Hub's list of files has no end".to_owned())
}

/// The cursor of the next page. Only it is taken from the link: where the page lies is known.
fn cursor(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().ok()?;
    let next = link.split(',').find(|link| link.contains("rel=\"next\""))?;
    let address = next.split_once('<')?.1.split_once('>')?.0;
    let query = address.split_once('?')?.1;
    let value = query.split('&').find_map(|pair| pair.strip_prefix("cursor="))?;
    let plain =
        value.len() <= 1024 && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%+=:".contains(&byte));
    plain.then(|| value.to_owned())
}

/// The names of a form's or a message's paths.
pub(super) fn paths_of(body: &[u8], json: bool) -> Option<Vec<String>> {
    if json {
        let Value::Object(mut map) = parse_json(body).ok()? else { return None };
        let Value::Array(paths) = map.remove("paths")? else { return None };
        return paths.into_iter().map(|path| path.as_str().map(str::to_owned)).collect();
    }
    let pairs = super::request::form(std::str::from_utf8(body).ok()?, 10_000)?;
    Some(pairs.into_iter().filter(|(name, _)| name == "paths").map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_gives_a_cursor_and_no_address() {
        let cursor = |link: &str| cursor(&HeaderMap::from_iter([(LINK, link.parse().unwrap())]));
        assert_eq!(cursor("<https://evil.example/x?limit=1&cursor=ab%3D>; rel=\"next\""), Some("ab%3D".into()));
        assert_eq!(cursor("<https://x/y?cursor=a>; rel=\"prev\""), None);
        assert_eq!(cursor("<https://x/y?cursor=a b>; rel=\"next\""), None);
    }

    #[test]
    fn paths_come_as_a_form_or_as_json() {
        assert_eq!(paths_of(b"paths=a%2Fb&paths=c+d&expand=False", false), Some(vec!["a/b".into(), "c d".into()]));
        assert_eq!(paths_of(br#"{"paths": ["a"], "expand": true}"#, true), Some(vec!["a".into()]));
        assert_eq!(paths_of(br#"{"paths": [1]}"#, true), None);
    }
}
