//! Where an archive can be.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use snowmint_server::config::S3;
use snowmint_server::objects::Objects;
use tempfile::TempDir;
use test_servers::{Hdfs, Proxy, RadosGw};

const BUCKET: &str = "audit";

/// A store of objects, and how it is reached.
pub struct Place {
    store: Store,
    directory: TempDir,
}

enum Store {
    Directory,
    S3(Box<RadosGw>),
    Hdfs(Box<Hdfs>),
}

impl Place {
    pub fn directory() -> Self {
        Self::new(Store::Directory)
    }

    pub async fn s3() -> Self {
        let radosgw = RadosGw::start().await;
        radosgw.create_bucket(BUCKET).await;
        let place = Self::new(Store::S3(Box::new(radosgw)));
        fs::write(place.secret_file(), "testers-secret").unwrap();
        place
    }

    pub async fn hdfs() -> Self {
        Self::new(Store::Hdfs(Box::new(Hdfs::start().await)))
    }

    fn new(store: Store) -> Self {
        Self { store, directory: TempDir::new().unwrap() }
    }

    fn secret_file(&self) -> PathBuf {
        self.directory.path().join("secret")
    }

    /// Where an archive of that name is, for the configuration.
    pub fn url(&self, name: &str) -> String {
        match &self.store {
            Store::Directory => format!("file://{}/{name}", self.directory.path().display()),
            Store::S3(_) => format!("s3://{BUCKET}/{name}"),
            Store::Hdfs(hdfs) => format!("{}/{name}", hdfs.url()),
        }
    }

    /// The archive of that name.
    pub fn objects(&self, name: &str) -> Objects {
        self.open(&self.url(name), None)
    }

    /// The same, reached over a proxy.
    pub fn objects_over(&self, name: &str, proxy: &Proxy) -> Objects {
        self.open(&self.url_over(name, proxy), Some(proxy.addr()))
    }

    /// Where it is then, for the configuration. The endpoint of S3 is another key.
    pub fn url_over(&self, name: &str, proxy: &Proxy) -> String {
        match &self.store {
            Store::Directory | Store::S3(_) => self.url(name),
            Store::Hdfs(_) => format!("hdfs://{}/{name}", proxy.addr()),
        }
    }

    fn open(&self, url: &str, endpoint: Option<SocketAddr>) -> Objects {
        Objects::open(&url.parse().unwrap(), &self.s3_access(endpoint)).unwrap()
    }

    /// How its S3 is reached, if it is one.
    pub fn s3_access(&self, endpoint: Option<SocketAddr>) -> S3 {
        match &self.store {
            Store::S3(radosgw) => S3 {
                endpoint: Some(endpoint.map_or(radosgw.endpoint(), |at| format!("http://{at}"))),
                region: Some(RadosGw::REGION.to_owned()),
                access_key_id: Some(radosgw.access_key().to_owned()),
                secret_access_key_file: Some(self.secret_file()),
                ca_file: None,
            },
            _ => S3::default(),
        }
    }

    /// Where its server listens, if it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        let url = match &self.store {
            Store::Directory => return None,
            Store::S3(radosgw) => radosgw.endpoint(),
            Store::Hdfs(hdfs) => hdfs.url(),
        };
        Some(url.split_once("://").unwrap().1.parse().unwrap())
    }

    /// Makes it fail at once. A directory cannot be gone: a file stands in its place.
    pub fn kill(&self, name: &str) {
        match &self.store {
            Store::Directory => {
                let directory = self.directory.path().join(name);
                fs::rename(&directory, directory.with_extension("away")).unwrap();
                fs::write(directory, "").unwrap();
            }
            Store::S3(radosgw) => radosgw.kill(),
            Store::Hdfs(hdfs) => hdfs.kill(),
        }
    }

    pub async fn restart(&self, name: &str) {
        match &self.store {
            Store::Directory => {
                let directory = self.directory.path().join(name);
                fs::remove_file(&directory).unwrap();
                fs::rename(directory.with_extension("away"), directory).unwrap();
            }
            Store::S3(radosgw) => radosgw.restart().await,
            Store::Hdfs(hdfs) => hdfs.restart().await,
        }
    }

    /// Makes it answer nothing. Says whether it can be made to.
    pub fn pause(&self) -> bool {
        match &self.store {
            Store::Directory => return false,
            Store::S3(radosgw) => radosgw.pause(),
            Store::Hdfs(hdfs) => hdfs.pause(),
        }
        true
    }

    pub fn resume(&self) {
        match &self.store {
            Store::Directory => {}
            Store::S3(radosgw) => radosgw.resume(),
            Store::Hdfs(hdfs) => hdfs.resume(),
        }
    }
}
