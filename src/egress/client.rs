//! The way to one upstream: HTTP/1.1 over TLS, or in plain on this machine.
//!
//! No redirect is followed, no proxy of the environment is used, and nothing is sent that the caller
//! did not put there: what goes upstream is chosen, not filtered.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ACCEPT_ENCODING, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use super::body::{Body, Inbound};
use super::error::{EgressFault, Lost};
use super::upstream::Upstream;

/// Bytes of an answer's head, and its headers.
const HEAD: usize = 64 << 10;
const HEADERS: usize = 128;

/// How long an upstream may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To take a connection.
    pub connect: Duration,
    /// To begin its answer.
    pub head: Duration,
    /// To send the next piece of it.
    pub idle: Duration,
}

/// A client of one upstream.
pub(crate) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Body>,
    base: Uri,
    patience: Patience,
}

impl Client {
    /// A client of `upstream`; connections are made when they are needed.
    pub(super) fn new(upstream: &Upstream, patience: Patience) -> Result<Self, EgressFault> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let no_roots = |error: String| EgressFault::Roots(error);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(patience.connect));
        let builder = HttpsConnectorBuilder::new();
        let builder = match &upstream.roots {
            Some(roots) => {
                let mut store = RootCertStore::empty();
                for root in roots {
                    store.add(root.clone()).map_err(|error| no_roots(error.to_string()))?;
                }
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| no_roots(error.to_string()))?;
                builder.with_tls_config(config.with_root_certificates(store).with_no_client_auth())
            }
            // Plain HTTP needs no roots, and a machine without any may have only such upstreams.
            None if upstream.url.scheme_str() == Some("http") => {
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| no_roots(error.to_string()))?;
                builder.with_tls_config(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
            }
            None => builder.with_provider_and_native_roots(provider).map_err(|error| no_roots(error.to_string()))?,
        };
        let plain = upstream.url.scheme_str() == Some("http");
        let connector = if plain {
            builder.https_or_http().enable_http1().wrap_connector(tcp)
        } else {
            builder.https_only().enable_http1().wrap_connector(tcp)
        };
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(20));
        builder.http1_max_buf_size(HEAD).http1_max_headers(HEADERS);
        Ok(Self { inner: builder.build(connector), base: upstream.url.clone(), patience })
    }

    /// Sends a request to `path` (with its query) below the upstream's address.
    ///
    /// # Errors
    /// [`Lost`]; [`Lost::is_unsent`] when the upstream cannot have seen it.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Response<Inbound>, Lost> {
        let below = self.base.path().trim_end_matches('/');
        let uri = Uri::builder()
            .scheme(self.base.scheme_str().unwrap_or("https"))
            .authority(self.base.authority().map_or("", hyper::http::uri::Authority::as_str))
            .path_and_query(format!("{below}{path}"))
            .build()
            .map_err(|_| Lost::Unreached)?;
        let mut request = Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        request.headers_mut().remove(HOST);
        // What is metered must be readable.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let idle = self.patience.idle;
        match tokio::time::timeout(self.patience.head, self.inner.request(request)).await {
            Err(_) => Err(Lost::Silent),
            Ok(Ok(response)) => Ok(response.map(|body| Inbound::new(body, idle))),
            Ok(Err(error)) => {
                tracing::debug!(%error, "an upstream did not answer");
                Err(if error.is_connect() { Lost::Unreached } else { Lost::Broken })
            }
        }
    }
}

/// Those of `headers` that have one of `names` or begin with one of `prefixes`. Everything else stays behind: keys,
/// cookies, what belongs to one connection.
pub(crate) fn chosen(headers: &HeaderMap, names: &[&str], prefixes: &[&str]) -> HeaderMap {
    let taken = |name: &HeaderName| {
        names.contains(&name.as_str()) || prefixes.iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    headers.iter().filter(|(name, _)| taken(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chosen_headers_pass_and_all_their_values_do() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("anthropic-beta", "a"), ("anthropic-beta", "b"), ("x-api-key", "k"), ("x-app", "c")] {
            headers.append(name, value.parse().unwrap());
        }
        let passed = chosen(&headers, &["x-app"], &["anthropic-"]);
        let values: Vec<_> = passed.get_all("anthropic-beta").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((values, passed.len()), (vec!["a", "b"], 3));
    }
}
