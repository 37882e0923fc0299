//! A plain client of a running gate: one request per connection, to a Unix socket or to loopback only,
//! because what it sends carries a token. Bounded in time and in what it reads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use hyper::client::conn::http1::handshake;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::compose;
use crate::model::{Limits, Name};
use crate::surface::{Secret, visible};

/// How long one request may take: a large session may have to be written to disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gate and how to speak to it.
pub(super) struct Gate {
    at: Address,
    token: Secret,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Gate {
    /// The gate at `url`, spoken to with the token in `file`.
    pub(super) fn new(url: &str, file: &Path) -> Result<Self, String> {
        let at = address(url)?;
        let text = String::from_utf8(compose::read(file)?).map_err(|_| format!("{}: not text", file.display()))?;
        let token = Secret::new(text.trim()).map_err(|fault| format!("{}: {fault}", file.display()))?;
        Ok(Self { at, token })
    }

    /// Where a browser finds it, when it listens on TCP.
    pub(super) fn web(&self) -> Option<String> {
        match &self.at {
            Address::Unix(_) => None,
            Address::Tcp(at) => Some(format!("http://{at}")),
        }
    }

    /// Sends one request; the answer's JSON.
    pub(super) fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no connection can be made: {error}"))?;
        let asked = async { tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await };
        let (status, bytes) = runtime
            .block_on(asked)
            .unwrap_or_else(|_| Err(format!("the gate did not answer within {} s", PATIENCE.as_secs())))?;
        let answer = crate::model::parse_json(&bytes);
        match answer {
            Ok(answer) if status.is_success() => Ok(answer),
            Ok(answer) => Err(refusal(status, answer["error"]["message"].as_str().unwrap_or("no reason was given"))),
            Err(_) => Err("what answered is not a gate: its answer is not strict JSON; check --url".into()),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        let request = self.request(method, path, body)?;
        let nobody = |error: std::io::Error| {
            let at = match &self.at {
                Address::Unix(path) => format!("unix:{}", path.display()),
                Address::Tcp(address) => format!("http://{address}"),
            };
            format!(
                "no gate listens at {at} ({error}): start it with `weir serve`, or give --store DIR where none runs"
            )
        };
        match &self.at {
            Address::Unix(path) => send(UnixStream::connect(path).await.map_err(nobody)?, request).await,
            Address::Tcp(address) => send(TcpStream::connect(address).await.map_err(nobody)?, request).await,
        }
    }

    fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Request<Body>, String> {
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        let request = request.header(AUTHORIZATION, format!("Bearer {}", self.token.expose()));
        let request = match body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        request.map_err(|error| format!("this cannot be asked: {error}"))
    }
}

async fn send<S>(stream: S, request: Request<Body>) -> Result<(StatusCode, Vec<u8>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| format!("the gate broke the connection: {error}");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broke)?;
    let status = answer.status();
    let bytes = to_bytes(Body::new(answer.into_body()), Limits::JSON_BYTES).await;
    connection.abort();
    bytes.map(|bytes| (status, bytes.to_vec())).map_err(|error| format!("the gate's answer broke off: {error}"))
}

/// What a refused request means to whoever typed it.
fn refusal(status: StatusCode, message: &str) -> String {
    let said = visible(message, Limits::DENIAL_BYTES);
    match status {
        StatusCode::UNAUTHORIZED => "the gate does not know this token: give the file of its operator's token, \
            the one of `weir serve --operator-token-file`"
            .to_owned(),
        StatusCode::FORBIDDEN => format!("this token may not do that, the operator's may: {said}"),
        _ => said,
    }
}

/// The path part for `name`: `/` is the one character of a name that means something in a path.
pub(super) fn part(name: &Name) -> String {
    name.as_str().replace('/', "%2F")
}

fn address(url: &str) -> Result<Address, String> {
    if let Some(path) = url.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Address::Unix(path.into()));
    }
    let host = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let host = host.map(|host| host.replace("localhost:", "127.0.0.1:"));
    match host.and_then(|host| host.parse::<SocketAddr>().ok()) {
        Some(address) if address.ip().is_loopback() => Ok(Address::Tcp(address)),
        Some(_) => Err(format!("--url {}: a gate listens on this machine only", visible(url, 100))),
        None => Err(format!("--url {}: not unix:PATH or http://127.0.0.1:PORT", visible(url, 100))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_this_machine_only() {
        assert_eq!(address("unix:/run/gate.sock"), Ok(Address::Unix("/run/gate.sock".into())));
        for good in ["http://127.0.0.1:80", "http://localhost:80", "http://localhost:80/"] {
            assert_eq!(address(good), Ok(Address::Tcp("127.0.0.1:80".parse().unwrap())), "{good}");
        }
        assert!(address("http://[::1]:80").is_ok());
        for bad in [
            "http://10.0.0.1:80",
            "http://gate.example:80",
            "https://127.0.0.1:80",
            "127.0.0.1:80",
            "unix:",
            "http://127.0.0.1",
            "http://user@127.0.0.1:80",
            "http://127.0.0.1:80/path",
            "",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
