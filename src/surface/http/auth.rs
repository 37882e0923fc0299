//! Who may speak: Host, Origin and token are checked before anything else of a request is read.
//!
//! The token is the identity. Checks fail closed: a header that is there twice, is not plain text or
//! cannot be parsed is refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::app::App;
use super::error::{Fault, Refusal};
use crate::surface::Secret;

/// How a connection came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Unix,
    Tcp,
}

/// Whose token a request carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    Nobody,
    Agent,
    Operator,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Anybody who can reach the socket; it tells nothing about this gate's work.
    Open,
    /// The agent's token only.
    Agent,
    /// The operator's token only.
    Operator,
    /// Either token.
    Either,
}

/// Checks Host, Origin and token and notes the caller for [`permit`].
pub(super) async fn identify(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let via = request.extensions().get::<Via>().copied().unwrap_or(Via::Tcp);
    check_host(request.headers(), request.uri(), via)?;
    check_origin(request.headers(), &app.config.origins, request.uri().path())?;
    let caller = caller(request.headers(), &app.config.token, app.config.operator_token.as_ref())?;
    if caller == Caller::Nobody && !super::routes::is_open(request.method(), request.uri().path()) {
        return Err(Refusal::new(Fault::Unauthorized, "send the gate's token as `Authorization: Bearer <token>`"));
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// Refuses a caller whose role does not cover `scope`.
pub(super) async fn permit(scope: Scope, request: Request, next: Next) -> Result<Response, Refusal> {
    let caller = request.extensions().get::<Caller>().copied().unwrap_or(Caller::Nobody);
    match (scope, caller) {
        (Scope::Open, _)
        | (Scope::Agent, Caller::Agent)
        | (Scope::Operator, Caller::Operator)
        | (Scope::Either, Caller::Agent | Caller::Operator) => Ok(next.run(request).await),
        (Scope::Operator, _) => {
            Err(Refusal::new(Fault::Forbidden, "approvals need the operator's token; the agent's token cannot approve"))
        }
        (Scope::Agent, _) => {
            Err(Refusal::new(Fault::Forbidden, "this needs the agent's token; the operator's acts for nobody"))
        }
        (Scope::Either, _) => Err(Refusal::new(Fault::Unauthorized, "a token is needed")),
    }
}

/// The one value of a header: `None` when absent, refused when repeated or not plain text.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::malformed(format!("the header `{name}` is there more than once")));
    }
    first
        .map(|value| value.to_str().map_err(|_| Refusal::malformed(format!("the header `{name}` is not plain text"))))
        .transpose()
}

fn caller(headers: &HeaderMap, agent: &Secret, operator: Option<&Secret>) -> Result<Caller, Refusal> {
    let Some(value) = single(headers, &header::AUTHORIZATION)? else {
        return Ok(Caller::Nobody);
    };
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim_start_matches(' ').as_bytes(),
        _ => return Ok(Caller::Nobody),
    };
    // Both are always compared, so that time does not tell which one was nearly right.
    let (is_agent, is_operator) = (agent.matches(token), operator.is_some_and(|secret| secret.matches(token)));
    Ok(if is_operator {
        Caller::Operator
    } else if is_agent {
        Caller::Agent
    } else {
        Caller::Nobody
    })
}

/// A page whose name was rebound to this machine sends its own name as Host.
fn check_host(headers: &HeaderMap, uri: &Uri, via: Via) -> Result<(), Refusal> {
    let refused =
        || Refusal::new(Fault::Forbidden, "the Host header must name this machine: localhost, 127.0.0.1 or [::1]");
    if uri.authority().is_some_and(|authority| !is_loopback(authority.as_str())) {
        return Err(refused());
    }
    match (single(headers, &header::HOST)?, via) {
        (None | Some(""), Via::Unix) => Ok(()),
        (Some(host), _) if is_loopback(host) => Ok(()),
        _ => Err(refused()),
    }
}

/// A browser sends Origin with every request that a page of another site makes, and with the form of the gate's own page.
fn check_origin(headers: &HeaderMap, allowed: &[String], path: &str) -> Result<(), Refusal> {
    let host = single(headers, &header::HOST)?.unwrap_or_default();
    let own = |origin: &str| path.starts_with("/approve/") && origin.strip_prefix("http://") == Some(host);
    match single(headers, &header::ORIGIN)? {
        None => Ok(()),
        Some(origin) if is_loopback_origin(origin) && own(origin) => Ok(()),
        Some(origin) if is_loopback_origin(origin) && allowed.iter().any(|known| known == origin) => Ok(()),
        Some(_) => {
            Err(Refusal::new(Fault::Forbidden, "requests from web pages are refused: this Origin is not configured"))
        }
    }
}

/// True for `http(s)://<loopback>[:port]` and nothing more.
pub(super) fn is_loopback_origin(origin: &str) -> bool {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).is_some_and(is_loopback)
}

/// True for `localhost`, an address of 127.0.0.0/8 or `[::1]`, each with or without a port.
fn is_loopback(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port.strip_prefix(':').or(port.is_empty().then_some("0"))),
            None => return false,
        },
        None => authority.split_once(':').map_or((authority, Some("0")), |(host, port)| (host, Some(port))),
    };
    let named = host.eq_ignore_ascii_case("localhost") && !authority.starts_with('[');
    let numbered =
        host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() && ip.is_ipv6() == authority.starts_with('['));
    let port = port
        .is_some_and(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    (named || numbered) && port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for good in ["localhost", "LocalHost:80", "127.0.0.1", "127.8.9.1:65535", "[::1]", "[::1]:8000"] {
            assert!(is_loopback(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "localhost.",
            "127.0.0.1.evil.example",
            "127.1",
            "0.0.0.0",
            "::1",
            "[::1",
            "[::1]x",
            "[localhost]",
            "[127.0.0.1]",
            "user@localhost",
            "localhost:",
            "localhost:+1",
            "localhost:99999",
            "localhost:1:2",
            "10.0.0.1",
            "[::ffff:127.0.0.1]",
            "2130706433",
            "127.0.0.1 ",
        ] {
            assert!(!is_loopback(bad), "{bad}");
        }
        assert!(is_loopback_origin("http://localhost:3000"));
        assert!(
            !is_loopback_origin("null")
                && !is_loopback_origin("http://localhost/path")
                && !is_loopback_origin("file://localhost")
        );
    }

    #[test]
    fn the_token_alone_says_who_speaks() {
        let (agent, operator) = (Secret::new("agent-token-0123").unwrap(), Secret::new("operator-token-0").unwrap());
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            caller(&headers, &agent, Some(&operator)).unwrap()
        };
        assert_eq!(of("Bearer agent-token-0123"), Caller::Agent);
        assert_eq!(of("bearer operator-token-0"), Caller::Operator);
        for wrong in [
            "agent-token-0123",
            "Basic agent-token-0123",
            "Bearer",
            "Bearer ",
            "Bearer agent-token-01234",
            "Bearer agent-token-012",
        ] {
            assert_eq!(of(wrong), Caller::Nobody, "{wrong}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, "Bearer agent-token-0123".parse().unwrap());
        twice.append(header::AUTHORIZATION, "Bearer agent-token-0123".parse().unwrap());
        assert!(caller(&twice, &agent, None).is_err());
    }

    #[test]
    fn a_rebound_host_or_a_foreign_page_is_refused() {
        let host = |value: &str| HeaderMap::from_iter([(header::HOST, value.parse().unwrap())]);
        let uri = Uri::from_static("/v1/budgets");
        assert!(check_host(&host("127.0.0.1:80"), &uri, Via::Tcp).is_ok());
        assert!(check_host(&host("rebound.example"), &uri, Via::Tcp).is_err());
        assert!(check_host(&host("rebound.example"), &uri, Via::Unix).is_err());
        assert!(check_host(&HeaderMap::new(), &uri, Via::Unix).is_ok());
        assert!(check_host(&HeaderMap::new(), &uri, Via::Tcp).is_err());
        assert!(check_host(&host("localhost"), &Uri::from_static("http://rebound.example/"), Via::Tcp).is_err());
        let origin = |value: &str| HeaderMap::from_iter([(header::ORIGIN, value.parse().unwrap())]);
        let allowed = ["http://localhost:3000".to_owned(), "http://evil.example".to_owned()];
        assert!(check_origin(&origin("http://localhost:3000"), &allowed, "/v1/decide").is_ok());
        for bad in ["null", "http://localhost:3001", "http://evil.example"] {
            assert!(check_origin(&origin(bad), &allowed, "/approve/x").is_err(), "{bad}");
        }
    }
}
