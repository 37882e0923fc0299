//! Upstreams over TLS: trusted by `ca_file` alone, and told no key before they are.
//! The key beside the certificate guards nothing but this test.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use weir::model::Kind;

use crate::door::setup;
use crate::rig::{KEY, Rig};

const SERVER: &str = include_str!("tls/server.pem");
const OTHER: &str = include_str!("tls/other.pem");

/// An upstream that speaks TLS and answers every request alike; what it was told.
fn serve() -> (String, Arc<Mutex<Vec<String>>>) {
    let certificate = CertificateDer::from_pem_slice(SERVER.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let told = heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten().take(8) {
            let mut reader = BufReader::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream));
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&line);
            }
            told.lock().unwrap().push(head);
            let answer = json!({"usage": {"input_tokens": 100, "output_tokens": 10}}).to_string();
            drop(reader.read_exact(&mut vec![0; length]));
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", answer.len());
            drop(reader.get_mut().write_all(format!("{head}connection: close\r\n\r\n{answer}").as_bytes()));
        }
    });
    (url, heads)
}

#[test]
fn an_upstream_is_trusted_by_its_file_alone_and_told_nothing_before() {
    let body = json!({"model": "claude-opus-4-8", "max_tokens": 10, "messages": []}).to_string();
    for (roots, trusted) in [(Some(SERVER), true), (Some(OTHER), false), (None, false)] {
        let (url, heads) = serve();
        let home = tempfile::tempdir().unwrap();
        let mut setup = setup("anthropic");
        if let Some(roots) = roots {
            let file = home.path().join("roots.pem");
            std::fs::write(&file, roots).unwrap();
            setup.lines = format!("ca_file = \"{}\"", file.display());
        }
        let rig = Rig::at(&url, setup);
        let reply = rig.ask("POST", "/v1/messages", &[], body.as_bytes());
        let heads = heads.lock().unwrap().concat();
        if trusted {
            assert_eq!((reply.status, rig.posted(Kind::MicroUsd)), (200, 750), "{}", reply.text());
            assert!(heads.contains(KEY));
        } else {
            assert_eq!((reply.status, rig.posted(Kind::MicroUsd)), (502, 0), "{}", reply.text());
            assert!(!heads.contains(KEY), "{heads}");
        }
    }
}
