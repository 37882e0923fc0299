//! An encrypted connection to a real server, with its certificate and name checked and a password: what works, and that each
//! thing that is wrong is refused and said without the password.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use weir::model::Kind;
use weir::shared::{Address, Office};

use super::gates::{Member, sharing};
use super::server::{NOBODY, Server, TERMS, is_root};
use super::support::Store;

pub const PASSWORD: &str = "correct horse";

/// An authority, and a certificate of it for the names.
fn certificate(names: &[&str]) -> (String, String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let own = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    (authority.pem(), own.pem(), key.serialize_pem())
}

/// A server that lets the gate in over TLS with its password alone, and its authority's certificate.
fn guarded(names: &[&str]) -> Option<(Server, String)> {
    listening(names, "127.0.0.1/32")
}

/// The same for gates of the network `from`; it listens on every address of its own network namespace where that is not
/// loopback.
pub fn listening(names: &[&str], from: &str) -> Option<(Server, String)> {
    let mut server = Server::start()?;
    server.everywhere = !from.starts_with("127.");
    drop(server.prepared());
    server.sql("admin", &format!("ALTER ROLE gate PASSWORD '{PASSWORD}'"));
    server.stop();
    let (authority, own, key) = certificate(names);
    let folder = server.folder();
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if is_root() {
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    };
    put("server.crt", &own);
    put("server.key", &key);
    let conf = std::fs::read_to_string(folder.join("postgresql.conf")).unwrap();
    put("postgresql.conf", &format!("{conf}\nssl = on\n"));
    let hosts = format!(
        "hostssl all gate {from} scram-sha-256\nhostnossl all gate {from} reject\nhost all all 127.0.0.1/32 trust\n"
    );
    put("pg_hba.conf", &hosts);
    server.up();
    Some((server, authority))
}

pub fn file(folder: &Path, text: &str) -> std::path::PathBuf {
    let path = folder.join("ca.pem");
    std::fs::write(&path, text).unwrap();
    path
}

/// What comes of asking the database for its format.
fn asked(address: Address) -> Result<usize, String> {
    Office::open(address, &TERMS).unwrap().format()
}

#[test]
fn a_gate_speaks_tls_to_a_server_whose_name_it_checks_with_its_password() {
    let Some((server, authority)) = guarded(&["127.0.0.1"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let ca = file(folder.path(), &authority);
    let encrypted = || Address::parse(&server.url("gate"), Some(&ca)).unwrap();
    let member =
        Member::start("g", encrypted().with_password(PASSWORD), sharing(Kind::ToolCalls, 10, 0), Store::default());
    assert!(member.call("a", "look", 0).is_ok());
    let sessions = server.sql(
        "admin",
        "SELECT count(*) FILTER (WHERE s.ssl), count(*) FILTER (WHERE NOT s.ssl) FROM \
                                        pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.usename = 'gate'",
    );
    assert!(sessions.trim().ends_with("|0") && !sessions.trim().starts_with("0|"), "all of them encrypted: {sessions}");

    let passfile = folder.path().join("pass");
    std::fs::write(&passfile, format!("127.0.0.1:{}:postgres:gate:{PASSWORD}\n", server.port)).unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(asked(encrypted().with_passfile(&passfile).unwrap()), Ok(3));

    let wrong = asked(encrypted().with_password("battery staple")).unwrap_err();
    assert!(wrong.contains("password authentication failed") && !wrong.contains("staple"), "{wrong}");
    let none = asked(encrypted()).unwrap_err();
    assert!(none.contains("password"), "{none}");
    let plain = asked(Address::parse(&server.url("gate"), None).unwrap().with_password(PASSWORD)).unwrap_err();
    assert!(plain.contains("pg_hba.conf") && !plain.contains("horse"), "{plain}");
}

#[test]
fn a_server_that_is_another_than_the_certificate_says_is_not_spoken_to() {
    let Some((server, authority)) = guarded(&["db.example"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let other_name = asked(
        Address::parse(&server.url("gate"), Some(&file(folder.path(), &authority))).unwrap().with_password(PASSWORD),
    );
    let fault = other_name.unwrap_err();
    assert!(fault.contains("not valid for name") || fault.contains("NotValidForName"), "{fault}");
    let (another, ..) = certificate(&["127.0.0.1"]);
    let other_ca = asked(
        Address::parse(&server.url("gate"), Some(&file(folder.path(), &another))).unwrap().with_password(PASSWORD),
    );
    let fault = other_ca.unwrap_err();
    assert!(["UnknownIssuer", "BadSignature"].iter().any(|why| fault.contains(why)), "{fault}");
}
