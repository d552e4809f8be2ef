//! What only shows when keys are seen together, or is more than a type.

use snowmint::Split;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::{Access, ArchiveUrl, ClickHouse, Config, Durability, NAME_BYTES_MAX, Personal, S3};

/// A value that its type allows and that cannot be nevertheless.
pub(super) struct Problem {
    pub(super) key: &'static str,
    pub(super) wanted: String,
}

impl Config {
    /// The first value that cannot be.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let split = self.id.layout;
        below("datacenter", Some(self.datacenter.into()), split.datacenters(), split)?;
        below("worker", self.worker.map(u32::from), split.workers(), split)?;
        self.check_workers()?;
        below("id.max_sequence", self.id.max_sequence, split.max_sequence() + 1, split)?;
        check_level(&self.log.level)?;
        for (key, name) in [
            ("node_name", &self.node_name),
            ("datacenter_name", &self.datacenter_name),
            ("datacenter_region", &self.datacenter_region),
        ] {
            if name.as_ref().is_some_and(|name| !(1..=NAME_BYTES_MAX).contains(&name.len())) {
                return Err(Problem {
                    key,
                    wanted: format!("a name of 1 to {NAME_BYTES_MAX} bytes is wanted"),
                });
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(Problem { key: "data_dir", wanted: "the path of a directory is wanted".to_owned() });
        }
        self.check_audit()?;
        self.etcd.check("etcd.password_file", "etcd.key_file")?;
        self.zookeeper.check("zookeeper.password_file", "zookeeper.key_file")?;
        self.clickhouse.check()?;
        self.s3.check()?;
        self.check_listeners()
    }

    fn check_workers(&self) -> Result<(), Problem> {
        let (workers, split) = (self.workers.get(), self.id.layout);
        let wanted = match self.worker {
            _ if u32::from(workers) > split.workers() => {
                format!("the layout {split} has room for {} in a datacenter", split.workers())
            }
            Some(worker) if workers > 1 => {
                format!("worker is {worker}, which is one: with worker unset, free ones are taken")
            }
            _ => return Ok(()),
        };
        Err(Problem { key: "workers", wanted })
    }

    fn check_audit(&self) -> Result<(), Problem> {
        let audit = &self.audit;
        let problem = |key, wanted: &str| Err(Problem { key, wanted: wanted.to_owned() });
        if audit.required && self.journal.durability == Durability::Off {
            return problem(
                "audit.required",
                "with journal.durability = \"off\" nothing is ever written down",
            );
        }
        if audit.required && audit.url == Some(ArchiveUrl::Off) {
            return problem("audit.required", "with audit.url = \"off\" there is no archive");
        }
        let hashed = [audit.client_ip, audit.user_agent].contains(&Personal::Hash);
        if hashed && audit.hash_key_file.is_none() {
            return problem(
                "audit.hash_key_file",
                "what is hashed needs a key: the path of a file is wanted",
            );
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), Problem> {
        let listeners = [
            ("http.listen", self.http.listen),
            ("grpc.listen", self.grpc.listen),
            ("resp.listen", self.resp.listen),
        ];
        if listeners.iter().all(|(_, listen)| listen.0.is_none()) {
            return Err(Problem {
                key: "http.listen",
                wanted: "http.listen, grpc.listen and resp.listen are all off, and one of them is needed"
                    .to_owned(),
            });
        }
        for (key, listen) in listeners {
            let routable = listen.0.is_some_and(|address| !address.ip().to_canonical().is_loopback());
            if routable && !self.insecure {
                return Err(Problem {
                    key,
                    wanted:
                        "other machines could reach it, without TLS and without a key: an address of this \
                             machine alone is wanted, such as 127.0.0.1, or --insecure (insecure = true)"
                            .to_owned(),
                });
            }
        }
        Ok(())
    }
}

impl ClickHouse {
    fn check(&self) -> Result<(), Problem> {
        let fits = |url: &String| {
            let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            authority.is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#', ' ']))
        };
        if !self.url.as_ref().is_none_or(fits) {
            let wanted = "the URL of a ClickHouse is wanted, such as http://localhost:8123 or https://ch.example.com:8443; \
                          clickhouse.user, clickhouse.password_file and clickhouse.database say the rest";
            return Err(Problem { key: "clickhouse.url", wanted: wanted.to_owned() });
        }
        if !(1..=NAME_BYTES_MAX).contains(&self.database.len()) {
            let wanted = format!("a name of 1 to {NAME_BYTES_MAX} bytes is wanted");
            return Err(Problem { key: "clickhouse.database", wanted });
        }
        Ok(())
    }
}

impl S3 {
    fn check(&self) -> Result<(), Problem> {
        let fits = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if !self.endpoint.as_ref().is_none_or(fits) {
            let wanted =
                "a URL is wanted, such as https://s3.example.com or http://localhost:9000".to_owned();
            return Err(Problem { key: "s3.endpoint", wanted });
        }
        if self.access_key_id.is_some() != self.secret_access_key_file.is_some() {
            let wanted = "access_key_id and secret_access_key_file are wanted, or neither".to_owned();
            return Err(Problem { key: "s3.secret_access_key_file", wanted });
        }
        Ok(())
    }
}

impl Access {
    /// What belongs together comes together.
    fn check(&self, password_key: &'static str, key_key: &'static str) -> Result<(), Problem> {
        let pairs = [
            (password_key, self.user.is_some(), self.password_file.is_some(), "user and password_file"),
            (key_key, self.cert_file.is_some(), self.key_file.is_some(), "cert_file and key_file"),
        ];
        match pairs.into_iter().find(|(_, one, other, _)| one != other) {
            Some((key, .., both)) => Err(Problem { key, wanted: format!("{both} are wanted, or neither") }),
            None => Ok(()),
        }
    }
}

fn below(key: &'static str, value: Option<u32>, end: u32, split: Split) -> Result<(), Problem> {
    match value {
        Some(value) if value >= end => {
            Err(Problem { key, wanted: format!("the layout {split} has room for 0 to {}", end - 1) })
        }
        _ => Ok(()),
    }
}

/// A misspelt level is a valid directive, for a module of that name, and would silence the log.
fn check_level(level: &str) -> Result<(), Problem> {
    let known =
        level.split(',').all(|part| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok());
    if known && EnvFilter::try_new(level).is_ok() {
        return Ok(());
    }
    Err(Problem {
        key: "log.level",
        wanted: "off, error, warn, info, debug or trace is wanted, or directives such as info,hyper=debug"
            .to_owned(),
    })
}
