//! A certificate for a server on loopback, and the authority that it is signed by.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::binary::run;

/// The files of a server's certificate.
pub(crate) struct Certificates {
    /// The authority's certificate, which clients trust.
    pub(crate) authority: PathBuf,
    /// The server's certificate.
    pub(crate) certificate: PathBuf,
    /// The key to it.
    pub(crate) key: PathBuf,
}

impl Certificates {
    /// Makes them in `directory`.
    pub(crate) async fn make(directory: &Path) -> Self {
        let file = |name| directory.join(name);
        let (authority, authority_key) = (file("ca.pem"), file("ca.key"));
        let (certificate, key) = (file("server.pem"), file("server.key"));

        let mut command = request("/CN=snowmint test authority");
        command.arg("-keyout").arg(&authority_key).arg("-out").arg(&authority);
        run(command).await.unwrap_or_else(|error| panic!("openssl makes no authority: {error}"));

        let mut command = request("/CN=snowmint test server");
        command.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        command.arg("-CA").arg(&authority).arg("-CAkey").arg(&authority_key);
        command.args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]);
        // Clients refuse an authority's certificate as a server's.
        command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        run(command).await.unwrap_or_else(|error| panic!("openssl makes no certificate: {error}"));
        Self { authority, certificate, key }
    }
}

fn request(subject: &str) -> Command {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]);
    command.args(["-days", "30", "-subj", subject]);
    command
}
