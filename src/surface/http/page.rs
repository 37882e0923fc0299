//! The OpenAPI document as one page: no script, no external resource, everything escaped.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::{HeaderName, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::openapi::openapi;
use super::schema::reasons;

pub(super) const STYLE: &str = include_str!("page.css");

/// The page and the policy under which a browser may show it.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| (page(&openapi()), policy()));

/// `GET /docs`
pub(super) async fn serve() -> Response {
    let (page, policy) = &*PAGE;
    let headers: [(HeaderName, &str); 3] = [
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    (headers, Html(page.as_str())).into_response()
}

/// Nothing but this page's own style.
fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

fn page(document: &Value) -> String {
    let info = &document["info"];
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style><h1>{title} <i>{version}</i></h1><p>{about}</p>",
        title = escaped(&info["title"]),
        version = escaped(&info["version"]),
        about = escaped(&info["description"]),
    );
    html.push_str("<h2>Requests</h2>");
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            section(&mut html, path, method, operation);
        }
    }
    html.push_str("<h2>Reason codes</h2><table>");
    for (name, about) in reasons() {
        let _ = write!(html, "<tr><td><code>{}</code><td>{}", plain(name), plain(about));
    }
    html.push_str("</table><h2>Schemas</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let pretty = serde_json::to_string_pretty(schema).unwrap_or_default();
        let name = plain(name);
        let _ = write!(html, "<section id=\"{name}\"><b>{name}</b><pre>{}</pre></section>", plain(&pretty));
    }
    html.push_str("</html>\n");
    html
}

fn section(html: &mut String, path: &str, method: &str, operation: &Value) {
    let tokens: Vec<String> = operation["security"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .flat_map(|scheme| scheme.keys().map(|key| plain(key)))
        .collect();
    let token = if tokens.is_empty() { "no token".to_owned() } else { format!("token: {}", tokens.join(" or ")) };
    let _ = write!(
        html,
        "<section><b class=\"method\">{}</b><code>{}</code> <i>{token}</i><p>{}</p><table>",
        plain(&method.to_ascii_uppercase()),
        plain(path),
        escaped(&operation["summary"]),
    );
    if let Some(schema) = schema_of(&operation["requestBody"]) {
        let _ = write!(html, "<tr><td>body<td><a href=\"#{schema}\"><code>{schema}</code></a>");
    }
    for parameter in
        operation["parameters"].as_array().into_iter().flatten().filter(|parameter| parameter["in"] == "query")
    {
        let _ = write!(
            html,
            "<tr><td>?<code>{}</code><td>{}",
            escaped(&parameter["name"]),
            escaped(&parameter["description"])
        );
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let link = schema_of(response).filter(|schema| schema != "Error");
        let text = link.map_or_else(
            || escaped(&response["description"]),
            |schema| format!("<a href=\"#{schema}\"><code>{schema}</code></a>"),
        );
        let _ = write!(html, "<tr><td>{}<td>{text}", plain(status));
    }
    html.push_str("</table></section>");
}

fn schema_of(part: &Value) -> Option<String> {
    let reference = part["content"]["application/json"]["schema"]["$ref"].as_str()?;
    reference.rsplit('/').next().map(plain)
}

fn escaped(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}

pub(super) fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::super::routes::ROUTES;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_shows_every_route_and_fetches_nothing() {
        let page = page(&openapi());
        for route in ROUTES {
            let path = route.path.replace("{*", "{");
            assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
        }
        for foreign in ["<script", "src=", "http://", "https://", "url(", "@import", "style=", "onclick"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(policy().starts_with("default-src 'none'"));
    }

    #[test]
    fn whatever_a_document_says_is_text() {
        let hostile = json!({"info": {"title": "<script>", "version": "\"'", "description": "&"}, "paths": {"/<b>": {"get": {"summary": "<i>"}}}});
        let page = page(&hostile);
        assert!(!page.contains("<script>") && !page.contains("<b>") && page.contains("&lt;script&gt;"));
    }
}
