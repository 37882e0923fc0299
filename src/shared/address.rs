//! Where the database is and how it is spoken to: a URL without a password, a CA file, a password from elsewhere.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use super::passfile;

/// Why an address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// It is not a connection string of PostgreSQL.
    #[error("the address of the shared store is not of the form postgres://user@host:port/database: {0}")]
    Form(String),
    /// It holds a password, which every process of the machine could read.
    #[error("the address of the shared store holds a password; give it in WEIR_SHARED_PASSWORD or in a passfile")]
    Password,
    /// It is on another machine and there is no CA file.
    #[error("{0} is another machine: give --shared-ca FILE, so that the connection is encrypted and checked")]
    Plain(String),
    /// A file cannot be used.
    #[error("{0}")]
    File(String),
}

/// An address that can be used. Shown without its password.
#[derive(Clone, Debug)]
pub struct Address {
    pub(super) config: Config,
    pub(super) tls: Option<ClientConfig>,
}

impl Address {
    /// The longest that opening a connection may take.
    const CONNECT: Duration = Duration::from_secs(2);

    /// Reads `url`. With a `ca` file the connection is encrypted and the server's certificate and name are checked;
    /// without one only a Unix socket or loopback is spoken to.
    ///
    /// # Errors
    /// [`AddressFault`].
    pub fn parse(url: &str, ca: Option<&Path>) -> Result<Self, AddressFault> {
        let mut config: Config =
            url.parse().map_err(|error: tokio_postgres::Error| AddressFault::Form(error.to_string()))?;
        if config.get_password().is_some() {
            return Err(AddressFault::Password);
        }
        if config.get_hosts().is_empty() {
            return Err(AddressFault::Form("it names no host".into()));
        }
        let tls = ca.map(trust).transpose()?;
        if let (None, Some(host)) = (&tls, config.get_hosts().iter().find(|host| !is_near(host))) {
            return Err(AddressFault::Plain(shown(host)));
        }
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.application_name("weir").connect_timeout(Self::CONNECT).tcp_user_timeout(Self::CONNECT * 2);
        config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2));
        Ok(Self { config, tls })
    }

    /// The same address with a password.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.config.password(password);
        self
    }

    /// The same address with the password that a file in libpq's form has for it.
    ///
    /// # Errors
    /// [`AddressFault::File`].
    pub fn with_passfile(self, path: &Path) -> Result<Self, AddressFault> {
        let host = self.config.get_hosts().first().map(shown).unwrap_or_default();
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let user = self.config.get_user().unwrap_or_default().to_owned();
        let database = self.config.get_dbname().unwrap_or(&user).to_owned();
        let password = passfile::password(path, &host, port, &database, &user).map_err(AddressFault::File)?;
        Ok(self.with_password(&password))
    }
}

fn trust(path: &Path) -> Result<ClientConfig, AddressFault> {
    let fault = |why: String| AddressFault::File(format!("{}: {why}", path.display()));
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(fault("it holds no certificate in PEM form".into()));
    }
    let provider = rustls::crypto::ring::default_provider();
    let config = ClientConfig::builder_with_provider(provider.into()).with_safe_default_protocol_versions();
    let config = config.map_err(|error| fault(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A Unix socket or loopback: what is said there stays on this machine.
fn is_near(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        Host::Unix(_) => true,
    }
}

fn shown(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_address_is_refused_and_never_shown() {
        let fault = Address::parse("postgres://gate:secret@127.0.0.1/money", None).unwrap_err();
        assert_eq!(fault, AddressFault::Password);
        assert!(!fault.to_string().contains("secret"));
        let address = Address::parse("postgres://gate@127.0.0.1/money", None).unwrap().with_password("secret");
        assert!(!format!("{address:?}").contains("secret"));
    }

    #[test]
    fn another_machine_is_spoken_to_with_tls_alone() {
        let fault = Address::parse("postgres://gate@db.example/money", None).unwrap_err();
        assert_eq!(fault, AddressFault::Plain("db.example".into()));
        for near in ["postgres://gate@localhost/x", "postgres://gate@[::1]/x", "host=/run/postgresql user=gate"] {
            assert!(Address::parse(near, None).is_ok(), "{near}");
        }
    }

    #[test]
    fn what_is_no_address_or_no_certificate_is_said_so() {
        assert!(matches!(Address::parse("http://x", None), Err(AddressFault::Form(_))));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let fault = Address::parse("postgres://gate@db.example/money", Some(&path)).unwrap_err();
        assert!(fault.to_string().contains("no certificate"), "{fault}");
    }
}
