//! Places for objects: a directory, S3 and what speaks like it, HDFS, Google Cloud Storage, Azure.
//!
//! What they have in common is [`ObjectStore`]; a place is one below a prefix. An object that is put with
//! `PutMode::Create` is there whole or not at all, and never replaces another: a directory and HDFS have it by
//! a temporary file, which a crash can leave behind (see [`is_temporary`]), S3 by `If-None-Match`, which it
//! does not honour for uploads of several parts.

mod bounded;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hdfs_native_object_store::HdfsObjectStoreBuilder;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};

use bounded::Bounded;

use crate::config::{self, Scheme, StoreUrl};
use crate::files;

/// The longest a connection may take, in milliseconds.
const CONNECT_MS_MAX: u64 = 5_000;

/// The longest a request may take, in milliseconds: an object of 64 MiB takes that at 2 MiB/s.
const REQUEST_MS_MAX: u64 = 30_000;

/// How often a request is tried again that a store has failed; callers try on, with pauses of their own.
const RETRIES_MAX: usize = 2;

/// The region of whoever says none.
const S3_REGION: &str = "us-east-1";

/// A place for objects.
#[derive(Clone)]
pub struct Objects {
    /// What is there. Paths are below the URL's.
    pub store: Arc<dyn ObjectStore>,
    /// What else is known of the place.
    pub kind: Kind,
    url: StoreUrl,
}

/// What a place is, for those to whom it matters.
#[derive(Clone)]
pub enum Kind {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket that has rules for the life of its objects.
    S3(S3),
    /// Anything else.
    Other,
}

/// A bucket of S3.
#[derive(Clone)]
pub struct S3 {
    /// What signs requests, and sends those that [`ObjectStore`] has.
    pub client: Arc<AmazonS3>,
    /// Its name.
    pub bucket: String,
    /// Where in it the place is; empty for all of it.
    pub prefix: String,
    /// Where it speaks HTTP, without a slash at the end.
    pub endpoint: String,
    /// Which region requests are signed for.
    pub region: String,
    /// What sends requests that [`ObjectStore`] has not.
    pub http: HttpClient,
}

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct ObjectsError {
    url: String,
    problem: String,
}

impl Objects {
    /// The place at that URL; a directory is made where it is not there. Nothing is asked of a server yet.
    ///
    /// What `s3` does not say is taken from the environment (`AWS_ACCESS_KEY_ID`, `AWS_REGION`, …) or from the
    /// machine's role, as is all for Google (`GOOGLE_…`) and Azure (`AZURE_…`). HDFS reads `HADOOP_CONF_DIR`.
    pub fn open(url: &StoreUrl, s3: &config::S3) -> Result<Self, ObjectsError> {
        let error = |problem: String| ObjectsError { url: url.to_string(), problem };
        let (store, kind) = match url {
            StoreUrl::Directory(path) => (directory(path).map_err(error)?, Kind::Directory(path.clone())),
            StoreUrl::Remote { scheme, authority, prefix } => {
                let (store, kind) = remote(*scheme, authority, prefix, s3).map_err(error)?;
                (below(store, prefix).map_err(error)?, kind)
            }
        };
        Ok(Self { store, kind, url: url.clone() })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }
}

/// Whether an object is what a put that was cut short has left: nobody's, and never the name of a whole one.
#[must_use]
pub fn is_temporary(path: &Path) -> bool {
    unfinished(path).is_some()
}

/// What a put was about to make, where an object is what it has left when it was cut short.
#[must_use]
pub fn unfinished(path: &Path) -> Option<String> {
    // HDFS: `.name.tmp.1`; a directory's `name#1` is not listed.
    let (name, number) = path.filename()?.strip_prefix('.')?.rsplit_once(".tmp.")?;
    let below = path.as_ref().strip_suffix(path.filename()?)?;
    number.parse::<u32>().ok().map(|_| format!("{below}{name}"))
}

fn directory(path: &FilePath) -> Result<Arc<dyn ObjectStore>, String> {
    files::create_directory(path).map_err(|error| format!("cannot create it: {error}"))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| error.to_string())?;
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

fn remote(
    scheme: Scheme,
    authority: &str,
    prefix: &str,
    s3: &config::S3,
) -> Result<(Arc<dyn ObjectStore>, Kind), String> {
    // What the HTTP client of all these takes for its TLS. Where it is set already, it stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = |error: object_store::Error| error.to_string();
    Ok(match scheme {
        Scheme::S3 => {
            let bucket = bucket(authority, prefix, s3)?;
            (Arc::<AmazonS3>::clone(&bucket.client), Kind::S3(bucket))
        }
        Scheme::Hdfs => {
            let url = format!("hdfs://{authority}");
            let store = HdfsObjectStoreBuilder::new().with_url(url).build().map_err(text)?;
            (Arc::new(Bounded(store)), Kind::Other)
        }
        Scheme::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(authority);
            let builder = builder.with_client_options(options()).with_retry(retry());
            (Arc::new(builder.build().map_err(text)?), Kind::Other)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(authority);
            let builder = builder.with_client_options(options()).with_retry(retry());
            (Arc::new(builder.build().map_err(text)?), Kind::Other)
        }
    })
}

fn bucket(bucket: &str, prefix: &str, s3: &config::S3) -> Result<S3, String> {
    let text = |error: object_store::Error| error.to_string();
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(retry());
    let mut options = options();
    if let Some(endpoint) = &s3.endpoint {
        options = options.with_allow_http(endpoint.starts_with("http://"));
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let (Some(key), Some(file)) = (&s3.access_key_id, &s3.secret_access_key_file) {
        builder = builder.with_access_key_id(key).with_secret_access_key(config::password(file)?);
    }
    if let Some(file) = &s3.ca_file {
        for authority in authorities(file).map_err(|problem| format!("{}: {problem}", file.display()))? {
            options = options.with_root_certificate(authority);
        }
    }
    let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
    let region = region.unwrap_or_else(|| S3_REGION.to_owned());
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    Ok(S3 {
        http: ReqwestConnector::default().connect(&options).map_err(text)?,
        client: Arc::new(builder.with_client_options(options).build().map_err(text)?),
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        region,
    })
}

fn authorities(file: &FilePath) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(file).map_err(|error| error.to_string())?;
    let found = Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
    if found.is_empty() { Err("it has no certificate in PEM form".to_owned()) } else { Ok(found) }
}

fn below(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Arc<dyn ObjectStore>, String> {
    if prefix.is_empty() {
        return Ok(store);
    }
    Ok(Arc::new(PrefixStore::new(store, Path::parse(prefix).map_err(|error| error.to_string())?)))
}

fn options() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(Duration::from_millis(CONNECT_MS_MAX))
        .with_timeout(Duration::from_millis(REQUEST_MS_MAX))
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES_MAX,
        retry_timeout: Duration::from_millis(REQUEST_MS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_put_was_about_to_make_is_told_by_what_it_left() {
        let unfinished = |path: &str| unfinished(&Path::from(path));
        assert_eq!(unfinished("a/b/.c.json.gz.tmp.12").as_deref(), Some("a/b/c.json.gz"));
        assert_eq!(unfinished(".c.tmp.1").as_deref(), Some("c"));
        for other in ["a/c.tmp.1", "a/.c.tmp.x", "a/.c.tmp", ".tmp.1/c", "c"] {
            assert_eq!(unfinished(other), None, "{other}");
        }
    }
}
