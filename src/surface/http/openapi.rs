//! The interface as an OpenAPI 3.1 document, made from the table of routes.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::app::json_bytes;
use super::auth::Scope;
use super::error::Fault;
use super::routes::{ROUTES, Route};
use super::schema::{reference, schemas};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(openapi().to_string()));

/// `GET /openapi.json`
pub(super) async fn serve() -> Response {
    json_bytes(StatusCode::OK, DOCUMENT.clone())
}

/// The interface as an OpenAPI 3.1 document.
#[must_use]
pub fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let methods = paths.entry(shown(route)).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            methods.insert(route.method.as_str().to_ascii_lowercase(), operation(route));
        }
    }
    let security = |about: &str| json!({"type": "http", "scheme": "bearer", "description": about});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Weir sidecar",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A policy-enforcing runtime gate for AI agents",
            "description": "HTTP/1.1 on a Unix socket or loopback TCP. Bodies are strict JSON. A denial by the policy is an answer with status 200, never an error.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "agent": security("the agent's token, which is its identity"),
                "operator": security("the operator's token, which the agent does not have"),
            },
        },
    })
}

/// The path as OpenAPI writes it, which knows no parameter of several parts.
fn shown(route: &Route) -> String {
    route.path.replace("{*", "{")
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": id(route),
        "summary": route.about,
        "security": security(route.scope),
        "parameters": parameters(route),
        "responses": responses(route),
    });
    if let (Value::Object(map), Some(schema)) = (&mut operation, route.body) {
        let content = if schema.contains('/') {
            json!({schema: {"schema": {"type": "string", "format": "binary"}}})
        } else {
            json!({"application/json": {"schema": reference(schema)}})
        };
        map.insert("requestBody".into(), json!({"required": true, "content": content}));
    }
    operation
}

/// `get_v1_sessions_session_event` and so on.
fn id(route: &Route) -> String {
    let path: String = route.path.chars().filter(|c| !matches!(c, '{' | '}' | '*')).collect();
    let words = path.split(['/', '.']).filter(|word| !word.is_empty());
    words.fold(route.method.as_str().to_ascii_lowercase(), |id, word| format!("{id}_{word}"))
}

fn security(scope: Scope) -> Value {
    match scope {
        Scope::Open => json!([]),
        Scope::Agent => json!([{"agent": []}]),
        Scope::Operator => json!([{"operator": []}]),
        Scope::Either => json!([{"agent": []}, {"operator": []}]),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = in_path.map(|name| match name.strip_prefix('*') {
        Some(name) => json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"},
            "description": "relative, with `/` between its parts; no part is empty, `.` or `..`"}),
        None => json!({"name": name, "in": "path", "required": true, "schema": reference("Name")}),
    });
    let in_query = route.query.iter().map(|(name, about)| {
        json!({"name": name, "in": "query", "required": false, "description": about, "schema": {"type": "string"}})
    });
    in_path.chain(in_query).collect()
}

fn responses(route: &Route) -> Map<String, Value> {
    let (status, schema) = route.answer;
    let content = if schema.contains('/') {
        json!({schema: {"schema": {"type": "string"}}})
    } else {
        json!({"application/json": {"schema": reference(schema)}})
    };
    let mut responses = Map::from_iter([(status.to_string(), json!({"description": "as asked", "content": content}))]);
    for (status, text) in faults(route) {
        let content = json!({"application/json": {"schema": reference("Error")}});
        responses.insert(status.to_string(), json!({"description": text, "content": content}));
    }
    responses
}

/// Status and meaning of every error of `route`; faults of one status stand together.
fn faults(route: &Route) -> Vec<(u16, String)> {
    let mut faults: Vec<(u16, String)> = Vec::new();
    let common = [Fault::Forbidden, Fault::Busy, Fault::Internal];
    let token = (route.scope != Scope::Open).then_some(Fault::Unauthorized);
    let body: &[Fault] = match route.body {
        Some(_) => &[Fault::Malformed, Fault::Slow, Fault::TooLarge, Fault::MediaType],
        None if !route.query.is_empty() => &[Fault::Malformed],
        None => &[],
    };
    for fault in Fault::ALL {
        let here =
            common.contains(&fault) || token == Some(fault) || body.contains(&fault) || route.faults.contains(&fault);
        let (status, code, about) = fault.row();
        let text = format!("`{code}`: {about}");
        match faults.iter_mut().find(|(known, _)| *known == status) {
            Some((_, known)) if here => *known = format!("{known}; {text}"),
            None if here => faults.push((status, text)),
            _ => {}
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_route_is_described_and_every_reference_resolves() {
        let document = openapi();
        let mut ids = HashSet::new();
        for route in ROUTES {
            let described = &document["paths"][shown(route)][route.method.as_str().to_ascii_lowercase()];
            assert_eq!(described["summary"], route.about, "{} {}", route.method, route.path);
            assert!(ids.insert(described["operationId"].to_string()), "{} twice", described["operationId"]);
            let open = route.scope == Scope::Open;
            assert_eq!(described["security"] == json!([]), open, "{}", route.path);
            assert_eq!(described["responses"]["401"].is_null(), open, "{}", route.path);
        }
        let text = document.to_string();
        let names = text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
        let used: HashSet<&str> = names.collect();
        let known: HashSet<&str> =
            document["components"]["schemas"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(used.difference(&known).count(), 0, "{used:?}");
        assert_eq!(known.difference(&used).collect::<Vec<_>>(), Vec::<&&str>::new(), "described and never used");
    }
}
