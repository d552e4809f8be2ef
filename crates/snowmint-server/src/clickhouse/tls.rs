//! The connections, with TLS or without.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clickhouse::Client;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::ClickHouseError;

/// The longest a connection may take, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;

/// How long a connection is kept for the next request, in milliseconds: ClickHouse closes it after 3 s.
const IDLE_MS_MAX: u64 = 2_000;

/// A client for that URL. It trusts the authority in `ca_file`, or else the system's.
///
/// The one that the `clickhouse` crate makes itself panics on a system that has no certificates, even for a URL
/// without TLS.
pub(super) fn client(url: &str, ca_file: Option<&Path>) -> Result<Client, ClickHouseError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(Duration::from_millis(CONNECT_MS_MAX)));
    http.set_nodelay(true);
    let mut builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(Duration::from_millis(IDLE_MS_MAX));
    if url.starts_with("http://") {
        return Ok(Client::with_http_client(builder.build(http)));
    }
    let provider = rustls::crypto::ring::default_provider();
    let https = match ca_file {
        Some(file) => HttpsConnectorBuilder::new().with_tls_config(trusting(file, provider)?),
        None => HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).map_err(|error| {
            unfit(&format!("the system trusts no authority, so that one is wanted: {error}"))
        })?,
    };
    let https = https.https_only().enable_http1().wrap_connector(http);
    Ok(Client::with_http_client(builder.build(https)))
}

fn trusting(file: &Path, provider: CryptoProvider) -> Result<ClientConfig, ClickHouseError> {
    let unfit_file = |problem: &dyn Display| unfit(&format!("{}: {problem}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unfit_file(&error))? {
        let certificate = certificate.map_err(|error| unfit_file(&error))?;
        roots.add(certificate).map_err(|error| unfit_file(&error))?;
    }
    if roots.is_empty() {
        return Err(unfit_file(&"it has no certificate in PEM form"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of every version of TLS that rustls knows");
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn unfit(problem: &str) -> ClickHouseError {
    ClickHouseError::Settings { key: "clickhouse.ca_file", problem: problem.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let refusal = || client("https://localhost", Some(&file)).err().unwrap().to_string();
        assert!(refusal().starts_with(&format!("clickhouse.ca_file: {}: ", file.display())), "{}", refusal());
        std::fs::write(&file, "no certificate").unwrap();
        assert!(refusal().ends_with("it has no certificate in PEM form"), "{}", refusal());
        assert!(client("http://localhost", None).is_ok());
    }
}
