//! The Hub as the gate speaks to it: with the real token, to the addresses that the configuration names, and to no other.
//!
//! Files lie on other machines than the Hub. An address that the Hub gives for one is followed only to a host that the
//! configuration lists, and never with the token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Response, StatusCode, Uri};

use crate::egress::auth::is_loopback;
use crate::egress::body::{Body, Inbound, empty, full};
use crate::egress::client::Client;
use crate::egress::door::Door;
use crate::egress::error::Lost;
use crate::egress::upstream::Upstream;

/// Clients of hosts that hold files.
const HOSTS: usize = 64;
/// Redirects on the way to a file.
const HOPS: usize = 4;

/// Why the Hub gave nothing that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RemoteFault {
    #[error("{0}")]
    Lost(#[from] Lost),
    #[error("the Hub answered {0}")]
    Status(StatusCode),
    #[error("the Hub's answer cannot be read")]
    Odd,
    #[error("the Hub names a host for this file that the configuration does not list")]
    Host,
}

/// A whole answer.
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Clients of the hosts that hold files, made when they are needed.
#[derive(Default)]
pub(super) struct Hosts(Mutex<HashMap<String, Arc<Client>>>);

/// Headers for the Hub: the real token and what it needs to read a body.
fn headers(door: &Door, kind: Option<&'static str>) -> HeaderMap {
    let mut headers = plain();
    if let Some(key) = door.upstream.key.header("Bearer ") {
        headers.insert(AUTHORIZATION, key);
    }
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers
}

fn plain() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("weir/", env!("CARGO_PKG_VERSION"))));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers
}

/// Asks the Hub and reads its answer whole, at most `most` bytes.
pub(super) async fn ask(
    door: &Door,
    method: Method,
    path: &str,
    body: Option<(&'static str, Bytes)>,
    most: usize,
) -> Result<Reply, Lost> {
    let headers = headers(door, body.as_ref().map(|(kind, _)| *kind));
    let body = body.map_or_else(empty, |(_, bytes)| full(bytes));
    let response = door.client.send(method, path, headers, body).await?;
    let (parts, mut body) = response.into_parts();
    let body = body.collect(most).await?;
    let quoted = |bytes: &[u8]| door.upstream.key.is_in(bytes);
    if quoted(&body) || parts.headers.values().any(|value| quoted(value.as_bytes())) {
        // Whatever it is about, nothing of such an answer may go on to a client.
        tracing::error!(upstream = %door.upstream.name, "an answer quotes the gate's own token; it is not used");
        return Err(Lost::Broken);
    }
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

/// Asks the Hub for something that flows.
pub(super) async fn stream(door: &Door, path: &str) -> Result<Response<Inbound>, Lost> {
    door.client.send(Method::GET, path, headers(door, None), empty()).await
}

/// Gets a file at `path` of the Hub, wherever it lies.
pub(super) async fn fetch(door: &Door, hosts: &Hosts, path: &str) -> Result<Response<Inbound>, RemoteFault> {
    let mut response = stream(door, path).await?;
    for _ in 0..HOPS {
        if !response.status().is_redirection() {
            return if response.status() == StatusCode::OK {
                Ok(response)
            } else {
                Err(RemoteFault::Status(response.status()))
            };
        }
        let location =
            response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).ok_or(RemoteFault::Odd)?;
        response = match place(&door.upstream, location).ok_or(RemoteFault::Host)? {
            Place::Own(path) => stream(door, &path).await?,
            Place::Other(uri) => {
                let client = hosts.client(door, &uri)?;
                client.send(Method::GET, path_of(&uri), plain(), empty()).await?
            }
        };
    }
    Err(RemoteFault::Odd)
}

/// Sends `body` to `address`, which the Hub gave for a step of an upload.
pub(super) async fn send(
    door: &Door,
    hosts: &Hosts,
    method: Method,
    address: &str,
    extra: HeaderMap,
    body: Body,
) -> Result<Response<Inbound>, RemoteFault> {
    match place(&door.upstream, address).ok_or(RemoteFault::Host)? {
        Place::Own(path) => {
            let mut headers = headers(door, None);
            headers.extend(extra);
            Ok(door.client.send(method, &path, headers, body).await?)
        }
        Place::Other(uri) => {
            let mut headers = plain();
            headers.extend(extra);
            let client = hosts.client(door, &uri)?;
            Ok(client.send(method, path_of(&uri), headers, body).await?)
        }
    }
}

fn path_of(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str)
}

/// Where an address of the Hub's leads.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// To the Hub itself; the path with its query.
    Own(String),
    /// To a listed host.
    Other(Uri),
}

/// Where `address` leads; `None` where nothing may be sent to.
fn place(upstream: &Upstream, address: &str) -> Option<Place> {
    if address.len() > 8192 || address.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return None;
    }
    let below = upstream.url.path().trim_end_matches('/');
    if address.starts_with('/') && !address.starts_with("//") {
        return Some(Place::Own(address.strip_prefix(below).unwrap_or(address).to_owned()));
    }
    let uri: Uri = address.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if authority.as_str().contains('@') {
        return None;
    }
    let own = upstream.url.scheme_str() == Some(scheme) && upstream.url.authority() == Some(authority);
    if own {
        let path = path_of(&uri);
        return Some(Place::Own(path.strip_prefix(below).unwrap_or(path).to_owned()));
    }
    let host = authority.host().to_ascii_lowercase();
    let listed = upstream.blob_hosts.iter().any(|known| match known.strip_prefix('.') {
        Some(_) => host.ends_with(known.as_str()),
        None => host == *known || authority.as_str() == known,
    });
    // Files may lie on this machine only where the Hub itself does.
    let scheme = match scheme {
        "https" => true,
        "http" => upstream.url.scheme_str() == Some("http") && is_loopback(authority.as_str()),
        _ => false,
    };
    (listed && scheme).then_some(Place::Other(uri))
}

impl Hosts {
    fn client(&self, door: &Door, uri: &Uri) -> Result<Arc<Client>, RemoteFault> {
        let (scheme, authority) = (uri.scheme_str().unwrap_or("https"), uri.authority().ok_or(RemoteFault::Odd)?);
        let base = format!("{scheme}://{authority}");
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&base) {
            return Ok(client.clone());
        }
        if known.len() >= HOSTS {
            known.clear();
        }
        let url = base.parse().map_err(|_| RemoteFault::Odd)?;
        let upstream = Upstream { url, ..door.upstream.clone() };
        let client = Client::new(&upstream, door.patience()).map_err(|_| RemoteFault::Odd)?;
        let client = Arc::new(client);
        known.insert(base, client.clone());
        Ok(client)
    }
}

/// A text for people of a fault on the way to the Hub.
pub(super) fn told(fault: &RemoteFault) -> String {
    match fault {
        RemoteFault::Host => format!("{fault}; add it to `blob_hosts` of the upstreams file if it is the Hub's"),
        _ => fault.to_string(),
    }
}
