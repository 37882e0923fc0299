//! The Hugging Face Hub behind the gate: pinned files in, granted repositories out, jobs under a budget.
//!
//! Each request is read into one of a closed list ([`request::Ask`]); what is on the list walks the gate's line before
//! anything leaves, and everything else is refused. What the Hub answers is hostile: the gate writes its own answers from
//! what it has checked. The real token stays here, and jobs get another one.

mod book;
mod commit;
mod content;
mod denial;
mod download;
mod forbidden;
#[cfg(test)]
mod hostile;
mod jobs;
mod launch;
mod lfs;
mod manifest;
mod pins;
mod plan;
mod prices;
mod remote;
mod repo;
mod request;
mod upload;
mod watch;

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use super::body::Body;
use super::door::{Door, Left, Protocol, Reply};
use super::error::Refusal;
use crate::model::{Name, Outcome, Resource, Status};
use request::Ask;

/// The registry of the policy that speaks of the Hub.
pub(super) const REGISTRY: &str = "hub";
/// Where large files are sent to, by ticket.
const TICKETS: &str = "/weir/lfs/";

/// The Hub's protocol.
#[derive(Default)]
pub(super) struct Hub(Arc<State>);

/// What the requests of one upstream share.
#[derive(Default)]
struct State {
    manifests: pins::Manifests,
    hosts: remote::Hosts,
    tickets: lfs::Tickets,
    book: book::Book,
    prices: jobs::Prices,
}

impl Protocol for Hub {
    fn answer(&self, door: Arc<Door>, request: Request<Incoming>, _: Left) -> Reply {
        let state = self.0.clone();
        Box::pin(async move { state.answer(door, request).await })
    }

    fn refuse(&self, path: &str, refusal: &Refusal) -> Response<Body> {
        denial::refuse(path, refusal)
    }

    fn takes_ticket(&self, path: &str) -> bool {
        // Nothing else can be asked for by such a path, so that no other request passes without the token.
        path.strip_prefix(TICKETS).is_some_and(lfs::is_ticket)
    }

    fn begin(&self, door: &Arc<Door>) {
        watch::take_up(&self.0, door);
    }
}

impl State {
    async fn answer(self: Arc<Self>, door: Arc<Door>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let ask = match request::read(request.method(), request.uri().path(), request.uri().query()) {
            Ok(ask) => ask,
            Err(refused) => return Err(attempt(&door, &refused).await),
        };
        match ask {
            Ask::Whoami => Ok(denial::answer(StatusCode::OK, &whoami(&door))),
            Ask::ValidateYaml => Ok(denial::answer(StatusCode::OK, &json!({"errors": [], "warnings": []}))),
            Ask::Info(..) | Ask::Tree(..) | Ask::PathsInfo(..) | Ask::Refs(..) => {
                download::described(&self, &door, ask, request).await
            }
            Ask::File(repo, revision, path) => {
                let head = request.method() == hyper::Method::HEAD;
                download::file(&self, &door, (repo, revision, path), head).await
            }
            Ask::Preupload(..) | Ask::Commit(..) | Ask::LfsBatch(..) | Ask::Create => {
                upload::answer(&self, &door, ask, request).await
            }
            Ask::Ticket(ticket) => lfs::step(&self, &door, &ticket, request).await,
            Ask::Hardware => jobs::hardware(&door).await,
            Ask::Launch(namespace) => jobs::launch(&self, &door, namespace, request).await,
            Ask::Jobs(namespace, stages) => Ok(jobs::list(&self, &namespace, &stages)),
            Ask::Job(namespace, id) => jobs::inspect(&self, &door, &namespace, &id).await,
            Ask::Logs(namespace, id, tail) => jobs::logs(&self, &door, (&namespace, &id), tail).await,
            Ask::Metrics(namespace, id) => jobs::metrics(&self, &door, (&namespace, &id)).await,
            Ask::Cancel(namespace, id) => jobs::cancel(&self, &door, &namespace, &id).await,
        }
    }
}

/// Puts on record that something was tried which is not judged, because it is never done: the gate refuses it as a call on
/// a thing that no policy can name.
async fn attempt(door: &Door, refused: &request::Refused) -> Refusal {
    let told = denial::unasked(refused);
    let Ok(name) = Name::new(format!("hub:{}", refused.about)) else { return told };
    let resource = Resource { registry: Name::new(REGISTRY).ok(), ..Resource::named(name) };
    let subject = door.sessions.subject(None, &[]);
    let args = serde_json::Map::from_iter([("bytes".to_owned(), serde_json::Value::from(0))]);
    if let Ok(call) = door.call(subject, refused.action, resource, args)
        && let Ok(held) = door.admit(call).await
    {
        drop(held.complete(Outcome::of(Status::Broken)).await);
    }
    told
}

/// Who the agent is, as far as its client needs to know: a name, and the namespaces that the policy names. Of the real
/// token's owner nothing is told.
fn whoami(door: &Door) -> serde_json::Value {
    let compiled = door.gate.policy();
    let policy = compiled.policy();
    let mut names: Vec<String> = policy.jobs.iter().flat_map(|jobs| jobs.namespaces.iter().cloned()).collect();
    let writable = policy.registries.get(REGISTRY).into_iter().flat_map(|registry| &registry.writable);
    let namespace = |text: &String| Some(repo::Repo::of_policy(text)?.namespace()?.to_owned());
    names.extend(writable.filter_map(namespace));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let name = names.first().cloned().unwrap_or_else(|| "agent".to_owned());
    let org = |name: &String| json!({"type": "org", "id": name, "name": name, "fullname": name, "isEnterprise": false});
    json!({
        "type": "user", "id": name, "name": name, "fullname": name, "isPro": false, "canPay": false, "emailVerified": false,
        "orgs": names.iter().skip(1).map(org).collect::<Vec<_>>(),
        "auth": {"type": "access_token", "accessToken": {"displayName": "weir", "role": "fineGrained"}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Method;

    proptest::proptest! {
        #[test]
        fn readers_of_the_hub_never_panic(
            path in "(/[a-z.%]{0,6}){0,8}[ -~]{0,20}", query in "[ -~]{0,30}", bytes in proptest::collection::vec(0_u8.., 0..200),
            json in "[\\[\\]{}:,\"a-z0-9]{0,80}",
        ) {
            for method in [Method::GET, Method::POST, Method::PUT] {
                if let Ok(Ask::File(_, _, path)) = request::read(&method, &path, Some(&query)) {
                    proptest::prop_assert!(repo::is_file(&path));
                }
            }
            for text in [bytes.as_slice(), json.as_bytes()] {
                drop(launch::read("team", text));
                drop(commit::read(text));
                drop(prices::Catalogue::read(text));
                drop(book::Seen::read_all(text));
                let _: Option<&str> = content::disguise(text);
                let repo = repo::Repo::parse(repo::RepoKind::Model, "a/b");
                let _ = repo.map(|repo| manifest::Manifest::new(repo, "0".repeat(40)).take(text));
            }
        }

        #[test]
        fn a_path_with_a_dot_segment_or_two_slashes_is_never_a_file(before in "[a-z]{1,3}", after in "[a-z]{1,3}", at in 0_usize..6) {
            let odd = ["..", ".", "", "%2e%2e", "%2E", "%2F"][at];
            let path = format!("/team/base/resolve/main/{before}/{odd}/{after}");
            proptest::prop_assert!(request::read(&Method::GET, &path, None).is_err(), "{}", path);
        }
    }
}
