//! Request bodies, ids in paths and query parameters: strict or refused.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::{HeaderMap, HeaderValue, header, request::Parts};
use serde::de::DeserializeOwned;

use super::app::App;
use super::error::{Fault, Refusal};
use crate::model::{JsonFault, Limits, Name, parse_json};

/// A body that is one strict JSON value of type `T`; unknown fields are `T`'s business.
pub(super) struct Strict<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Strict<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        check_type(request.headers())?;
        let (bytes, _room) = receive(request, app, Limits::JSON_BYTES).await?;
        parse(&bytes).map(Self)
    }
}

/// A body of plain bytes.
pub(super) struct Raw {
    pub(super) bytes: Vec<u8>,
    /// Given back with the bytes.
    _room: Room,
}

impl Raw {
    /// Bytes of one, at most.
    pub(super) const MOST: usize = 16 << 20;
}

impl FromRequest<Arc<App>> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Refusal> {
        let headers = request.headers();
        let octets = HeaderValue::from_static("application/octet-stream");
        if headers.get(header::CONTENT_TYPE) != Some(&octets) || headers.contains_key(header::CONTENT_ENCODING) {
            let text = "send the file as `Content-Type: application/octet-stream`, not compressed";
            return Err(Refusal::new(Fault::MediaType, text));
        }
        let (bytes, room) = receive(request, app, Self::MOST).await?;
        Ok(Self { bytes, _room: room })
    }
}

/// Room for the bytes of one body: all requests together hold a bounded number of them.
pub(super) struct Room {
    app: Arc<App>,
    kib: u32,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.app.body_room.add_permits(self.kib as usize);
    }
}

/// Reads a body of at most `most` bytes.
pub(super) async fn receive(request: Request, app: &Arc<App>, most: usize) -> Result<(Vec<u8>, Room), Refusal> {
    let stated = stated_length(request.headers(), most)?;
    let kib = u32::try_from(stated.unwrap_or(most).div_ceil(1024)).unwrap_or(u32::MAX);
    let reading = async {
        app.body_room.acquire_many(kib).await.map_err(|_| Refusal::stopping())?.forget();
        let room = Room { app: app.clone(), kib };
        Ok((collect(request.into_body(), most).await?, room))
    };
    let slow = Err(Refusal::new(Fault::Slow, "the body did not arrive in time"));
    tokio::time::timeout(app.config.read_within, reading).await.unwrap_or(slow)
}

/// `bytes` as a `T`, strictly.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let value = parse_json(bytes).map_err(|fault| match fault {
        JsonFault::TooLarge(_) => too_large(Limits::JSON_BYTES),
        JsonFault::Malformed(text) => Refusal::malformed(format!("the body is not strict JSON: {text}")),
    })?;
    serde_json::from_value(value).map_err(|error| Refusal::malformed(format!("the body has the wrong form: {error}")))
}

/// A field that is there, `null` included; without this `null` and absence would be the same.
pub(super) fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<serde_json::Value>, D::Error> {
    serde::Deserialize::deserialize(deserializer).map(Some)
}

async fn collect(mut body: Body, most: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|_| Refusal::malformed("the body broke off"))?;
        // Trailers are frames without data; nothing reads them.
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > most {
                return Err(too_large(most));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

fn too_large(most: usize) -> Refusal {
    Refusal::new(Fault::TooLarge, format!("a body has at most {most} bytes here"))
}

fn stated_length(headers: &HeaderMap, most: usize) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    match length {
        Some(length) if length <= most => Ok(Some(length)),
        _ => Err(too_large(most)),
    }
}

/// JSON, in UTF-8, not compressed: another reader of the same bytes must see the same thing.
fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let wrong = || {
        Refusal::new(Fault::MediaType, "send the body as `Content-Type: application/json`, in UTF-8 and not compressed")
    };
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let stated = types.next().and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
    let (media, parameters) = stated.split_once(';').unwrap_or((stated, "charset=utf-8"));
    let parameters = parameters.trim().to_ascii_lowercase();
    let utf8 = matches!(parameters.as_str(), "charset=utf-8" | "charset=\"utf-8\"");
    let plain = !headers.contains_key(header::CONTENT_ENCODING);
    let json = media.trim().eq_ignore_ascii_case("application/json");
    if types.next().is_none() && json && utf8 && plain { Ok(()) } else { Err(wrong()) }
}

/// The one parameter of a path. What is not a name cannot name anything: 404.
pub(super) struct Id(pub(super) Name);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let nothing = || Refusal::new(Fault::NotFound, "the id in the path is not one that the gate made");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| nothing())?;
        Name::new(text).map(Self).map_err(|_| nothing())
    }
}

/// Query parameters out of `known`; names and values are plain, so nothing needs decoding.
pub(super) fn query(text: Option<&str>, known: &[&str]) -> Result<BTreeMap<String, String>, Refusal> {
    let mut found = BTreeMap::new();
    for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&name) {
            return Err(Refusal::malformed(format!("unknown query parameter `{name}`; known: {}", known.join(", "))));
        }
        if found.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Refusal::malformed(format!("the query parameter `{name}` is there twice")));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_json_is_read() {
        let typed = |value: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
        for good in ["application/json", "Application/JSON; charset=UTF-8"] {
            assert!(check_type(&typed(good)).is_ok(), "{good}");
        }
        for bad in [
            "text/plain",
            "application/json; charset=utf-16",
            "application/json-seq",
            "application/json; x=y",
            "multipart/form-data",
        ] {
            assert!(check_type(&typed(bad)).is_err(), "{bad}");
        }
        assert!(check_type(&HeaderMap::new()).is_err());
        let mut packed = typed("application/json");
        packed.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(check_type(&packed).is_err());
    }

    #[test]
    fn query_parameters_are_known_and_single() {
        assert_eq!(query(Some("session=a&limit=3"), &["session", "limit"]).unwrap().len(), 2);
        assert!(query(Some("sesion=a"), &["session"]).is_err());
        assert!(query(Some("a=1&a=2"), &["a"]).is_err());
        assert!(query(None, &[]).unwrap().is_empty());
    }
}
