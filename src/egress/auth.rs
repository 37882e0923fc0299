//! Who may speak to a proxy: Host, Origin and token, checked before anything else of a request is read.
//!
//! The token is the agent's, wherever a client puts its key: `Authorization: Bearer` or `x-api-key`. It
//! never goes upstream. Checks fail closed: a header that is there twice or is not plain text is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use hyper::{StatusCode, Uri};

use super::error::Refusal;
use crate::model::Secret;

/// Bytes of a request's head.
pub(super) const HEAD: usize = 32 << 10;

/// Refuses a request that does not come from a client of this machine with the agent's `token`. Without one the
/// protocol looks itself at the ticket that the request carries instead.
pub(super) fn check(headers: &HeaderMap, uri: &Uri, token: Option<&Secret>) -> Result<(), Refusal> {
    // The listener's own bound is one on what it buffers, which a head that arrives at once may pass.
    let pairs = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    if uri.path().len() + uri.query().map_or(0, str::len) + pairs.sum::<usize>() > HEAD {
        let text = format!("a request's head has at most {HEAD} bytes");
        return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, text));
    }
    let forbidden = |text: &str| Err(Refusal::new(StatusCode::FORBIDDEN, text));
    let named = single(headers, HOST.as_str())?.is_some_and(is_loopback);
    if !named || uri.authority().is_some_and(|authority| !is_loopback(authority.as_str())) {
        return forbidden("the Host header must name this machine: localhost, 127.0.0.1 or [::1]");
    }
    if headers.contains_key(ORIGIN) {
        return forbidden("requests from web pages are refused");
    }
    let Some(token) = token else { return Ok(()) };
    let bearer = single(headers, AUTHORIZATION.as_str())?.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_start_matches(' '))
    });
    let key = single(headers, "x-api-key")?;
    // Both are always compared, so that time does not tell which one was nearly right.
    let (by_bearer, by_key) =
        (token.matches(bearer.unwrap_or_default().as_bytes()), token.matches(key.unwrap_or_default().as_bytes()));
    if by_bearer || by_key {
        return Ok(());
    }
    let text = "the gate takes its own token as the API key, in `x-api-key` or `Authorization: Bearer`; \
                the provider's key stays with the gate";
    Err(Refusal::new(StatusCode::UNAUTHORIZED, text))
}

/// The one value of a header: `None` when absent, refused when repeated or not plain text.
pub(super) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the header `{name}` is there more than once")));
    }
    let plain = |_| Refusal::new(StatusCode::BAD_REQUEST, format!("the header `{name}` is not plain text"));
    first.map(|value| value.to_str().map_err(plain)).transpose()
}

/// True for `localhost`, an address of 127.0.0.0/8 or `[::1]`, each with or without a port.
pub(super) fn is_loopback(authority: &str) -> bool {
    if let Ok(address) = authority.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    if let Some(host) = authority.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return host.parse::<Ipv6Addr>().is_ok_and(|ip| IpAddr::V6(ip).is_loopback());
    }
    if let Ok(ip) = authority.parse::<Ipv4Addr>() {
        return ip.is_loopback();
    }
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let numbered = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host.eq_ignore_ascii_case("localhost") && numbered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_loopback() {
        for good in ["localhost", "LocalHost:80", "127.0.0.1", "127.8.9.1:65535", "[::1]", "[::1]:8000"] {
            assert!(is_loopback(good), "{good}");
        }
        let bad = "evil.example localhost.evil.example localhost. 127.0.0.1.evil.example 127.1 0.0.0.0 ::1 [::1 [::1]x \
                   [localhost] [127.0.0.1] user@localhost localhost: localhost:+1 localhost:99999 localhost:1:2 \
                   10.0.0.1 [::ffff:127.0.0.1] 2130706433 10.0.0.1:80";
        for bad in bad.split_whitespace().chain(["", "127.0.0.1 "]) {
            assert!(!is_loopback(bad), "{bad}");
        }
    }

    #[test]
    fn the_token_is_taken_where_a_client_puts_its_key_and_nothing_else_is() {
        let token = Secret::new("agent-token-0123").unwrap();
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "127.0.0.1:9".parse().unwrap());
            for (name, value) in pairs {
                headers.append(*name, value.parse().unwrap());
            }
            check(&headers, &Uri::from_static("/"), Some(&token)).map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(with(&[("authorization", "Bearer agent-token-0123")]), Ok(()));
        assert_eq!(with(&[("x-api-key", "agent-token-0123")]), Ok(()));
        assert_eq!(with(&[("authorization", "Bearer sk-own"), ("x-api-key", "agent-token-0123")]), Ok(()));
        for wrong in [
            &[][..],
            &[("authorization", "agent-token-0123")],
            &[("authorization", "Basic agent-token-0123")],
            &[("x-api-key", "agent-token-012")],
            &[("cookie", "x-api-key=agent-token-0123")],
        ] {
            assert_eq!(with(wrong), Err(401), "{wrong:?}");
        }
        assert_eq!(with(&[("x-api-key", "agent-token-0123"), ("x-api-key", "agent-token-0123")]), Err(400));
        assert_eq!(with(&[("x-api-key", "agent-token-0123"), ("origin", "http://localhost")]), Err(403));
    }

    #[test]
    fn a_rebound_host_is_refused() {
        let token = Secret::new("agent-token-0123").unwrap();
        let check = |host: Option<&'static str>, uri: &'static str| {
            let mut headers =
                HeaderMap::from_iter([("x-api-key".parse().unwrap(), "agent-token-0123".parse().unwrap())]);
            headers.extend(host.map(|host| (HOST, host.parse().unwrap())));
            check(&headers, &Uri::from_static(uri), Some(&token)).is_ok()
        };
        assert!(check(Some("localhost:1"), "/") && check(Some("localhost:1"), "http://127.0.0.1:1/"));
        assert!(!check(None, "/") && !check(Some("rebound.example"), "/"));
        assert!(!check(Some("localhost"), "http://rebound.example/"));
    }
}
