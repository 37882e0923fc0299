//! The file of upstreams: where the proxies listen, whom they speak to, and with which key.
//!
//! Addresses and keys are no matter of policy: a policy says what may be done, this file how the other
//! side is reached. Keys lie in files of their own that only the gate's user can read; they are read
//! once, at start, and no type here prints them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::auth::is_loopback;
use super::source::{At, FaultLine, Faults, Source, Table};
use crate::model::Name;

/// Bytes of a key or of a file of certificates.
const KEY_BYTES: usize = 4 << 10;
const ROOTS_BYTES: usize = 1 << 20;

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The Anthropic Messages API.
    Anthropic,
    /// The OpenAI Chat Completions and Responses APIs.
    OpenAi,
    /// The Hugging Face Hub.
    Hub,
}

impl Kind {
    /// Every kind with its word in the file.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Anthropic, "anthropic"), (Self::OpenAi, "openai"), (Self::Hub, "hub")];

    fn is_model(self) -> bool {
        matches!(self, Self::Anthropic | Self::OpenAi)
    }
}

/// A key of an upstream. It has no `Debug`, no `Display` and no `PartialEq`.
#[derive(Clone)]
pub struct Key(String);

impl Key {
    /// A key of 8 to 4096 visible ASCII characters; `None` for any other text.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        (plain && (8..=KEY_BYTES).contains(&text.len())).then(|| Self(text.to_owned()))
    }

    /// The key itself, for the one message that has to hold it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// True when `bytes` quote it.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.0.len()).any(|window| window == self.0.as_bytes())
    }

    /// The key after `prefix`, as a header that no log shows.
    pub(crate) fn header(&self, prefix: &str) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// One upstream with the listener in front of it.
#[derive(Clone)]
pub struct Upstream {
    /// Its name, for messages and as the surface of its calls.
    pub name: Name,
    /// What it speaks.
    pub kind: Kind,
    /// Where it is: `https://host[:port][/path]` without a slash at the end.
    pub url: Uri,
    /// Where its proxy listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The key that is put in place of the agent's token.
    pub key: Key,
    /// The only certificates that may vouch for it; those of the machine when `None`.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// How many bytes of a request count as one token when its cost is held. With 1 a hold is never too small.
    pub bytes_per_token: u64,
    /// Top-level fields of a request that pass although the gate does not know them.
    pub extra_fields: BTreeSet<String>,
    /// Of the Hub: the token that jobs get in place of the agent's; without one no job gets a secret.
    pub job_token: Option<Key>,
    /// Of the Hub: hosts that hold files besides the Hub itself, each a name or, after a dot, the end of one.
    pub blob_hosts: BTreeSet<String>,
    /// Of the Hub: how often a job that runs is looked at.
    pub look_every: Duration,
}

/// How often a job is looked at when the configuration does not say.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Where the Hub's files lie when the configuration does not say.
const BLOB_HOSTS: [&str; 2] = [".hf.co", ".huggingface.co"];

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Reads the file of upstreams at `path`, with the keys and certificates that it names.
///
/// # Errors
/// Every fault at once, each with its line.
pub fn upstreams(path: &Path) -> Result<Vec<Upstream>, Faults> {
    let file = path.display().to_string();
    let folder = path.parent().unwrap_or(Path::new("."));
    let whole = |text: String| Faults { file: file.clone(), lines: vec![FaultLine { line: 0, text }] };
    let bytes = bounded(path, crate::model::Limits::POLICY_BYTES).map_err(whole)?;
    let (mut names, mut listens) = (BTreeSet::new(), BTreeSet::new());
    let found = Source::read(&bytes, &file, "upstream", |table| {
        let upstream = read(table, folder)?;
        if !names.insert(upstream.name.clone()) {
            table.fault(table.line, format!("the name `{}` is taken", upstream.name));
        }
        if upstream.listen.port() != 0 && !listens.insert(upstream.listen) {
            table.fault(table.line, format!("two upstreams listen on {}", upstream.listen));
        }
        Some(upstream)
    })?;
    if found.is_empty() {
        return Err(whole("the file names no upstream; add an `[[upstream]]` table".into()));
    }
    Ok(found)
}

fn read(table: &Table<'_, '_>, folder: &Path) -> Option<Upstream> {
    let name =
        table.need("name").and_then(|At { value, line }| named(value).map_err(|text| table.fault(line, text)).ok());
    let kind = table.need("kind").and_then(|At { value, line }| kind_of(table, &value, line));
    let url = table.need("url").and_then(|At { value, line }| {
        address(&value).map_err(|text| table.fault(line, format!("`url`: {text}"))).ok()
    });
    let listen = match table.text("listen") {
        None => Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        Some(At { value, line }) => listen_on(&value).map_err(|text| table.fault(line, text)).ok(),
    };
    let key = table.need("key_file").and_then(|At { value, line }| {
        key(&folder.join(value)).map_err(|text| table.fault(line, format!("`key_file`: {text}"))).ok()
    });
    let mut sound = true;
    let roots = table.text("ca_file").and_then(|At { value, line }| {
        let read = roots(&folder.join(value)).map_err(|text| table.fault(line, format!("`ca_file`: {text}")));
        sound &= read.is_ok();
        read.ok()
    });
    let (mut bytes_per_token, mut extra_fields) = (1, BTreeSet::new());
    if kind.is_none_or(Kind::is_model) {
        bytes_per_token = table.whole("bytes_per_token", 1..=8).unwrap_or(1);
        extra_fields =
            table.texts("extra_fields").map(|At { value, .. }| value.into_iter().collect()).unwrap_or_default();
    }
    let (mut job_token, mut blob_hosts, mut look_every) = (None, BTreeSet::new(), LOOK_EVERY);
    if kind.is_none_or(|kind| kind == Kind::Hub) {
        job_token = table.text("job_token_file").and_then(|At { value, line }| {
            let read =
                self::key(&folder.join(value)).map_err(|text| table.fault(line, format!("`job_token_file`: {text}")));
            sound &= read.is_ok();
            read.ok()
        });
        let usual = || BLOB_HOSTS.iter().map(|&host| host.to_owned()).collect();
        let listed = |At { value, .. }: At<Vec<String>>| value.iter().map(|host| host.to_ascii_lowercase()).collect();
        blob_hosts = table.texts("blob_hosts").map_or_else(usual, listed);
        look_every = table.whole("look_every_ms", 20..=600_000).map_or(LOOK_EVERY, Duration::from_millis);
    }
    let (name, kind, url, listen, key) = (name?, kind?, url?, listen?, key?);
    let own = Upstream {
        name,
        kind,
        url,
        listen,
        key,
        roots,
        bytes_per_token,
        extra_fields,
        job_token,
        blob_hosts,
        look_every,
    };
    sound.then_some(own)
}

/// The name of an upstream. It is the surface of its calls, so that it must not be one of a surface on which a host says
/// itself what its calls used: what the gate metered would count as somebody's word.
fn named(value: String) -> Result<Name, String> {
    match value.as_str() {
        "http" | "hook" => Err(format!("the name `{value}` is taken by a surface of the gate")),
        _ => Name::new(value).map_err(|fault| fault.to_string()),
    }
}

fn kind_of(table: &Table<'_, '_>, word: &str, line: usize) -> Option<Kind> {
    let found = Kind::ALL.into_iter().find(|(_, known)| *known == word).map(|(kind, _)| kind);
    if found.is_none() {
        let words: Vec<&str> = Kind::ALL.iter().map(|(_, word)| *word).collect();
        table.fault(line, format!("`kind` is one of `{}`", words.join("`, `")));
    }
    found
}

/// An address without user, query or fragment; plain HTTP only to this machine.
fn address(text: &str) -> Result<Uri, String> {
    if text.contains(['?', '#', '@', '\\']) {
        return Err("an address has no user, no query and no fragment".into());
    }
    let uri: Uri =
        text.trim_end_matches('/').parse().map_err(|_| "not an address such as https://host/path".to_owned())?;
    let host = uri.authority().map(hyper::http::uri::Authority::as_str).filter(|host| !host.is_empty());
    match (uri.scheme_str(), host) {
        (Some("https"), Some(_)) => Ok(uri),
        (Some("http"), Some(host)) if is_loopback(host) => Ok(uri),
        (Some("http"), Some(_)) => Err("plain http is for this machine only; use https".into()),
        _ => Err("not an address such as https://host/path".into()),
    }
}

fn listen_on(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "`listen` is an address with a port, as in \"127.0.0.1:0\"".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("`listen`: {address} is not a loopback address; a proxy serves this machine only"))
    }
}

/// The key in the file at `path`. No message quotes the file's content.
fn key(path: &Path) -> Result<Key, String> {
    let bytes = bounded(path, KEY_BYTES + 2)?;
    if mode(path).is_none_or(|mode| mode & 0o077 != 0) {
        return Err("others can read or change the file; `chmod 600` it".into());
    }
    let text = String::from_utf8(bytes).map_err(|_| "not text".to_owned())?;
    Key::new(text.trim_end_matches(['\n', '\r']))
        .ok_or_else(|| "a key is one line of 8 to 4096 visible characters".into())
}

fn mode(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.mode())
}

fn roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = bounded(path, ROOTS_BYTES)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err("no certificates in PEM form".into()),
    }
}

/// The file's bytes, at most `max`; what went wrong without the path, which the caller's line names.
fn bounded(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let fault = |error: std::io::Error| format!("cannot be read: {}", error.kind());
    let file = File::open(path).map_err(fault)?;
    let mut bytes = Vec::new();
    let most = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() > max { Err(format!("more than {max} bytes")) } else { Ok(bytes) }
}
