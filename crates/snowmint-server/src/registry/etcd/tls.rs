//! Endpoints, and the certificates they are talked to with.

use std::error::Error;
use std::fs;
use std::path::Path;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::super::{RegistryError, ServerAccess};

/// What is said about certificates, each file read and looked into, so that a bad one is named.
pub(super) fn config(access: &ServerAccess) -> Result<ClientTlsConfig, RegistryError> {
    let config = match &access.ca_file {
        Some(file) => {
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("etcd.ca_file", file)?))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    check("etcd.ca_file", &config)?;
    let Some((certificate, key)) = &access.identity else { return Ok(config) };
    let identity = Identity::from_pem(read("etcd.cert_file", certificate)?, read("etcd.key_file", key)?);
    let config = config.identity(identity);
    check("etcd.cert_file", &config)?;
    Ok(config)
}

/// The server at `address`, which is `host:port`.
pub(super) fn endpoint(address: &str, tls: Option<ClientTlsConfig>) -> Result<Endpoint, RegistryError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let bad = || unusable("registry", &format!("{address} is not host:port"));
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(|_| bad())?;
    if endpoint.uri().port_u16().is_none() {
        return Err(bad());
    }
    match tls {
        // It was checked.
        Some(tls) => endpoint.tls_config(tls).map_err(|_| bad()),
        None => Ok(endpoint),
    }
}

pub(super) fn unusable(key: &'static str, problem: &str) -> RegistryError {
    RegistryError::Settings { key, problem: problem.to_owned() }
}

fn read(key: &'static str, file: &Path) -> Result<Vec<u8>, RegistryError> {
    let bytes = fs::read(file).map_err(|error| unusable(key, &format!("{}: {error}", file.display())))?;
    if bytes.windows(PEM.len()).any(|window| window == PEM) {
        return Ok(bytes);
    }
    Err(unusable(key, &format!("{} is not in PEM form", file.display())))
}

/// How each entry of a PEM file begins.
const PEM: &[u8] = b"-----BEGIN ";

fn check(key: &'static str, config: &ClientTlsConfig) -> Result<(), RegistryError> {
    let endpoint = Endpoint::from_static("https://localhost").tls_config(config.clone());
    endpoint.map(|_| ()).map_err(|error| unusable(key, &root_cause(&error)))
}

fn root_cause(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
