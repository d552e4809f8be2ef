//! Where values come from: default, then file, then environment, then flag; the later wins.
//!
//! Every value is tried in the whole configuration on its own, so that an error can say which key it
//! is, who gave it, and what was given.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::check::Problem;
use super::{Config, RANGES};

const ENVIRONMENT_PREFIX: &str = "SNOWMINT_";
/// Names the file where no flag does. The one variable of ours that is no key.
const FILE_VARIABLE: &str = "SNOWMINT_CONFIG";

/// How alike a key must be to be worth naming, from 0 to 1.
const LIKENESS_MIN: f64 = 0.5;
/// What likeness in the last part alone counts, as where the section was left out.
const LAST_PART_WEIGHT: f64 = 0.95;

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// The configuration file.
    File {
        /// Its path.
        path: PathBuf,
        /// The line it stands in, from 1.
        line: usize,
    },
    /// A variable of this name.
    Environment(String),
    /// A flag of this name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}, line {line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One key of the effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its full name: `http.listen`.
    pub key: String,
    /// Its value; null where it is unset.
    pub value: Value,
    /// Who gave it.
    pub origin: Origin,
}

/// The effective configuration, and who gave each of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// Reads the file (`file`, or else the one that `SNOWMINT_CONFIG` names, or else none), the
    /// environment's `SNOWMINT_SECTION__KEY`, and `flags`, which are pairs of key and value.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let mut environment: BTreeMap<String, String> =
            environment.filter(|(name, value)| is_ours(name, value)).collect();
        let named = environment.remove(FILE_VARIABLE).map(PathBuf::from);
        let mut layers = Layers::new();
        if let Some(path) = file.or(named.as_deref()) {
            layers.add_file(path)?;
        }
        for (name, text) in environment {
            let key = name[ENVIRONMENT_PREFIX.len()..].to_lowercase().replace("__", ".");
            layers.set(&key, Given::Text(text), Origin::Environment(name))?;
        }
        for (key, text) in flags {
            layers.set(key, Given::Text(text.clone()), Origin::Flag(flag_name(key)))?;
        }
        layers.finish()
    }

    /// Every key, by name.
    pub fn settings(&self) -> impl Iterator<Item = Setting> {
        leaves(&tree(&self.config)).into_iter().map(|(key, value)| {
            let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
            Setting { key, value, origin }
        })
    }
}

/// This process's environment, as [`Loaded::load`] wants it.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Kubernetes gives every pod variables for each service beside it, and a service may be called snowmint:
/// `SNOWMINT_SERVICE_HOST`, `SNOWMINT_PORT=tcp://…`, `SNOWMINT_PORT_8080_TCP_ADDR`. They are not for us.
fn is_ours(name: &str, value: &str) -> bool {
    let service_link = name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.contains("_PORT_") && (name.contains("_TCP") || name.contains("_UDP")))
        || (name.ends_with("_PORT") && value.contains("://"));
    name.starts_with(ENVIRONMENT_PREFIX) && !service_link
}

/// `--data-dir` for `data_dir`, `--http` for `http.listen`.
fn flag_name(key: &str) -> String {
    format!("--{}", key.strip_suffix(".listen").unwrap_or(key).replace('_', "-"))
}

/// `SNOWMINT_HTTP__LISTEN` for `http.listen`.
fn variable_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// A value on its way in.
enum Given {
    /// From a file, with its type.
    Typed(Value),
    /// From a variable or a flag: what it is depends on its key.
    Text(String),
}

impl Given {
    /// What it may mean, likeliest first.
    fn readings(self) -> Vec<Value> {
        match self {
            Self::Typed(value) => vec![value],
            Self::Text(text) => {
                let scalar = serde_json::from_str(&text)
                    .ok()
                    .filter(|value: &Value| value.is_number() || value.is_boolean());
                [Some(Value::String(text)), scalar].into_iter().flatten().collect()
            }
        }
    }
}

/// The configuration while values are laid over each other.
struct Layers {
    tree: Value,
    keys: Vec<String>,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    fn new() -> Self {
        let tree = tree(&Config::default());
        let keys = leaves(&tree).into_iter().map(|(key, _)| key).collect();
        Self { tree, keys, origins: BTreeMap::new() }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let table = DeTable::parse(&text)
            .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        self.add_table(path, &text, "", table.get_ref())
    }

    fn add_table(
        &mut self,
        path: &Path,
        text: &str,
        prefix: &str,
        table: &DeTable<'_>,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            match value.get_ref() {
                DeValue::Table(inner) if !self.keys.contains(&key) => {
                    self.add_table(path, text, &format!("{key}."), inner)?;
                }
                value => {
                    let line = text[..name.span().start].matches('\n').count() + 1;
                    self.set(&key, Given::Typed(json(value)), Origin::File { path: path.to_owned(), line })?;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, given: Given, origin: Origin) -> Result<(), ConfigError> {
        if !self.keys.iter().any(|known| known == key) {
            return Err(self.unknown(key, origin));
        }
        let mut problem = String::new();
        for reading in given.readings() {
            let mut tree = self.tree.clone();
            *place(&mut tree, key) = reading.clone();
            match check_value(&tree, key, &reading) {
                Ok(()) => {
                    self.tree = tree;
                    self.origins.insert(key.to_owned(), origin);
                    return Ok(());
                }
                Err(wanted) => problem = format!("{key} = {reading} ({origin}): {wanted}"),
            }
        }
        Err(ConfigError::Value { problem })
    }

    fn unknown(&self, key: &str, origin: Origin) -> ConfigError {
        let section = format!("{key}.");
        if let Some(known) = self.keys.iter().find(|known| known.starts_with(&section)) {
            return ConfigError::Section { key: key.to_owned(), origin, example: known.clone() };
        }
        let hint = self.hint(key, &origin);
        ConfigError::UnknownKey { key: key.to_owned(), origin, hint }
    }

    fn hint(&self, key: &str, origin: &Origin) -> String {
        let nearest = self
            .keys
            .iter()
            .map(|known| (likeness(key, known), known))
            .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        match (nearest, origin) {
            (None, _) => "`snowmint config show` lists the keys there are".to_owned(),
            (Some((_, known)), Origin::Environment(_)) => format!("did you mean {}?", variable_name(known)),
            (Some((_, known)), _) => format!("did you mean {known}?"),
        }
    }

    fn finish(self) -> Result<Loaded, ConfigError> {
        let config = Config::deserialize(&self.tree)
            .map_err(|error| ConfigError::Value { problem: error.to_string() })?;
        match config.check() {
            Ok(()) => Ok(Loaded { config, origins: self.origins }),
            Err(Problem { key, wanted }) => {
                let origin = self.origins.get(key).unwrap_or(&Origin::Default);
                let given = self.tree.pointer(&pointer(key)).unwrap_or(&Value::Null);
                Err(ConfigError::Value { problem: format!("{key} = {given} ({origin}): {wanted}") })
            }
        }
    }
}

/// Whether `key`, the one key of `tree` that is not known to be right, may have its value, or what would
/// be right.
fn check_value(tree: &Value, key: &str, value: &Value) -> Result<(), String> {
    let range = RANGES.iter().find(|(ranged, _)| *ranged == key).map(|(_, range)| range);
    match (Config::deserialize(tree), range) {
        (Ok(_), Some(range)) if value.as_u64().is_some_and(|number| range.contains(&number)) => Ok(()),
        (_, Some(range)) => {
            Err(format!("a whole number from {} to {} is wanted", range.start(), range.end()))
        }
        (Ok(_), None) => Ok(()),
        (Err(error), None) => Err(error.to_string()),
    }
}

fn likeness(key: &str, known: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let whole = strsim::normalized_damerau_levenshtein(key, known);
    let last_parts = strsim::normalized_damerau_levenshtein(&last(key), &last(known));
    // Of keys with the same last part, the one whose section is alike.
    whole.max(LAST_PART_WEIGHT * (0.9 * last_parts + 0.1 * whole))
}

fn tree(config: &Config) -> Value {
    serde_json::to_value(config).expect("a configuration is text, numbers and truth values")
}

/// Every key of a tree with its value, sections flattened into dotted names.
fn leaves(tree: &Value) -> Vec<(String, Value)> {
    fn walk(prefix: &str, tree: &Value, found: &mut Vec<(String, Value)>) {
        match tree {
            Value::Object(section) => {
                for (name, value) in section {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    walk(&format!("{prefix}{dot}{name}"), value, found);
                }
            }
            value => found.push((prefix.to_owned(), value.clone())),
        }
    }
    let mut found = Vec::new();
    walk("", tree, &mut found);
    found
}

fn pointer(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}

fn place<'a>(tree: &'a mut Value, key: &str) -> &'a mut Value {
    tree.pointer_mut(&pointer(key)).expect("the key is known, and the tree has all of them")
}

/// A value of the file. No key is a fraction or a date: as text they are of the wrong type, and shown as
/// they were written.
fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::String(number.to_string()), Value::from),
        DeValue::Float(number) => Value::String(number.to_string()),
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(values) => values.iter().map(|value| json(value.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(name, value)| (name.get_ref().to_string(), json(value.get_ref())))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is no TOML", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// There is no such key.
    #[error("unknown key {key} ({origin}): {hint}")]
    UnknownKey {
        /// What was given.
        key: String,
        /// By whom.
        origin: Origin,
        /// The nearest key there is, or where to find the keys.
        hint: String,
    },
    /// A section was given a value.
    #[error("{key} is a section, not a key ({origin}): it has keys such as {example}")]
    Section {
        /// The section.
        key: String,
        /// Who gave it a value.
        origin: Origin,
        /// A key of it.
        example: String,
    },
    /// A key cannot have that value.
    #[error("{problem}")]
    Value {
        /// The key, what it was given and by whom, and what would be right.
        problem: String,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snowmint.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let flags: Vec<_> = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        Loaded::load(Some(&path), environment, &flags)
            .map_err(|error| error.to_string().replace(path.to_str().unwrap(), "FILE"))
    }

    fn refusal(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
        load(file, environment, flags).unwrap_err()
    }

    #[test]
    fn nothing_given_is_the_default() {
        let loaded = load("", &[("PATH", "/bin")], &[]).unwrap();
        assert_eq!(loaded.config, Config::default());
        assert!(loaded.settings().all(|setting| setting.origin == Origin::Default));
    }

    #[test]
    fn the_later_layer_wins_and_origins_are_remembered() {
        let file = "datacenter = 1\nworker = 1\n[lease]\nwindow_ms = 2000\n";
        let environment = [("SNOWMINT_WORKER", "2"), ("SNOWMINT_DATACENTER", "2")];
        let loaded = load(file, &environment, &[("worker", "3"), ("http.listen", "")]).unwrap();
        let Config { datacenter, worker, lease, http, .. } = &loaded.config;
        assert_eq!((*datacenter, *worker, lease.window_ms, http.listen.0), (2, Some(3), 2_000, None));

        let origin = |key: &str| {
            let setting = loaded.settings().find(|setting| setting.key == key).unwrap();
            setting.origin.to_string()
        };
        assert_eq!(origin("worker"), "flag --worker");
        assert_eq!(origin("http.listen"), "flag --http");
        assert_eq!(origin("datacenter"), "environment SNOWMINT_DATACENTER");
        assert!(origin("lease.window_ms").ends_with("snowmint.toml, line 4"));
        assert_eq!(origin("grpc.listen"), "default");
    }

    #[test]
    fn text_takes_the_type_of_its_key() {
        let environment = [
            ("SNOWMINT_NODE_NAME", "17"),
            ("SNOWMINT_ID__MAX_SEQUENCE", "17"),
            ("SNOWMINT_LEASE__REUSE_COOLING", "true"),
            ("SNOWMINT_ID__LAYOUT", "40/6/5/12"),
            ("SNOWMINT_ID__SEQUENCE_START", "zero"),
        ];
        let config = load("", &environment, &[]).unwrap().config;
        assert_eq!(config.node_name.as_deref(), Some("17"));
        assert_eq!(config.id.max_sequence(), 17);
        assert!(config.lease.reuse_cooling);
        assert_eq!(config.id.layout.datacenters(), 64);
        assert_eq!(config.id.sequence_start, snowmint::SequenceStart::Zero);
    }

    #[test]
    fn the_environment_names_the_file_where_no_flag_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.toml");
        std::fs::write(&path, "worker = 9").unwrap();
        let environment = [("SNOWMINT_CONFIG".to_owned(), path.to_str().unwrap().to_owned())];
        let loaded = Loaded::load(None, environment.clone().into_iter(), &[]).unwrap();
        assert_eq!(loaded.config.worker, Some(9));
        assert_eq!(
            load("worker = 4", &[("SNOWMINT_CONFIG", "/nowhere")], &[]).unwrap().config.worker,
            Some(4)
        );
    }

    #[test]
    fn unknown_keys_name_the_nearest_and_where_they_stand() {
        assert_eq!(
            refusal("\n[http]\nlisten_on = \"\"", &[], &[]),
            "unknown key http.listen_on (file FILE, line 3): did you mean http.listen?"
        );
        assert_eq!(
            refusal("window_ms = 5", &[], &[]),
            "unknown key window_ms (file FILE, line 1): did you mean lease.window_ms?"
        );
        assert_eq!(
            refusal("", &[("SNOWMINT_HTTP_LISTEN", "")], &[]),
            "unknown key http_listen (environment SNOWMINT_HTTP_LISTEN): did you mean SNOWMINT_HTTP__LISTEN?"
        );
        assert_eq!(
            refusal("[zzzzzz]\nqqqqqq = 1", &[], &[]),
            "unknown key zzzzzz.qqqqqq (file FILE, line 2): `snowmint config show` lists the keys there are"
        );
        assert_eq!(
            refusal("http = 8080", &[], &[]),
            "http is a section, not a key (file FILE, line 1): it has keys such as http.listen"
        );
    }

    #[test]
    fn what_kubernetes_says_of_a_service_called_snowmint_is_no_key() {
        let links = [
            ("SNOWMINT_SERVICE_HOST", "10.0.0.1"),
            ("SNOWMINT_SERVICE_PORT_HTTP", "8080"),
            ("SNOWMINT_PORT", "tcp://10.0.0.1:8080"),
            ("SNOWMINT_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ];
        assert!(load("", &links, &[]).is_ok());
        assert!(load("", &[("SNOWMINT_PORT", "8080")], &[]).is_err());
    }

    #[test]
    fn a_wrong_value_says_what_it_is_who_gave_it_and_what_would_be_right() {
        let whole = "a whole number from 0 to 65535 is wanted";
        assert_eq!(
            refusal("worker = \"5\"", &[], &[]),
            format!("worker = \"5\" (file FILE, line 1): {whole}")
        );
        assert_eq!(
            refusal("worker = 1.5", &[], &[]),
            format!("worker = \"1.5\" (file FILE, line 1): {whole}")
        );
        assert_eq!(refusal("", &[], &[("worker", "-1")]), format!("worker = -1 (flag --worker): {whole}"));
        assert_eq!(
            refusal("", &[("SNOWMINT_LEASE__WINDOW_MS", "50")], &[]),
            "lease.window_ms = 50 (environment SNOWMINT_LEASE__WINDOW_MS): a whole number from 100 to 3600000 is wanted"
        );
        assert_eq!(
            refusal("", &[], &[("registry", "etcd://a:b")]),
            "registry = \"etcd://a:b\" (flag --registry): \"a:b\" is no server: HOST:PORT is wanted, with an \
             IPv6 address in brackets"
        );
        for (file, wanted) in [
            ("insecure = 1", "expected a boolean"),
            ("http.listen = \"localhost:80\"", "an IP address and a port are wanted"),
            ("http.listen = {}", "expected"),
            ("id.layout = \"41/5/5\"", "four bit counts are wanted"),
            ("id.sequence_start = \"one\"", "expected `zero` or `jittered`"),
            ("log.format = \"xml\"", "expected one of `auto`, `text`, `json`"),
            ("log.level = \"inof\"", "off, error, warn, info, debug or trace is wanted"),
            ("id.epoch_ms = 99999999999999", "a whole number from 0 to 17592186044415 is wanted"),
            ("id.max_sequence = 4096", "the layout 41/5/5/12 has room for 0 to 4095"),
            ("datacenter = 32", "the layout 41/5/5/12 has room for 0 to 31"),
            ("workers = 2\nworker = 1", "worker is 1, which is one"),
            ("workers = 33", "the layout 41/5/5/12 has room for 32 in a datacenter"),
            ("workers = 0", "a whole number from 1 to 65535 is wanted"),
            ("worker = 32", "the layout 41/5/5/12 has room for 0 to 31"),
            ("node_name = \"\"", "a name of 1 to 253 bytes is wanted"),
            ("clickhouse.url = \"localhost:8123\"", "such as http://localhost:8123"),
            ("clickhouse.url = \"http://me:secret@a\"", "clickhouse.password_file"),
            ("etcd.password_file = \"f\"", "user and password_file are wanted, or neither"),
            ("data_dir = \"\"", "the path of a directory is wanted"),
            ("http.listen = \"\"\ngrpc.listen = \"\"\nresp.listen = \"\"", "all off"),
        ] {
            let refusal = refusal(file, &[], &[]);
            assert!(refusal.contains(wanted) && refusal.contains("line 1)"), "{file}: {refusal}");
        }
    }

    #[test]
    fn a_routable_address_needs_insecure() {
        for address in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            assert!(refusal("", &[], &[("grpc.listen", address)]).contains("other machines could reach it"));
            assert!(load("", &[], &[("grpc.listen", address), ("insecure", "true")]).is_ok());
        }
        for address in ["127.0.0.2:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(load("", &[], &[("http.listen", address)]).is_ok());
        }
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        assert!(refusal("worker = ", &[], &[]).contains("is no TOML"));
        let missing = Loaded::load(Some(Path::new("/nowhere/snowmint.toml")), std::iter::empty(), &[]);
        assert!(missing.unwrap_err().to_string().contains("cannot read the configuration file /nowhere"));
    }

    #[test]
    fn every_number_has_its_range() {
        for (key, value) in leaves(&tree(&Config::default())) {
            let unset_number = ["worker", "id.max_sequence", "clock.refuse_above_ms"].contains(&key.as_str());
            let ranged = RANGES.iter().any(|(ranged, _)| *ranged == key);
            assert_eq!(ranged, value.is_number() || unset_number, "{key}");
        }
    }

    #[test]
    fn every_key_is_described_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let page = std::fs::read_to_string(page).unwrap();
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let described: Vec<(&str, &str)> = rows
            .map(|row| row.split_once("` | ").unwrap())
            .map(|(keys, rest)| (keys, rest.split_once(" |").unwrap().0))
            .flat_map(|(keys, default)| keys.split("`, `").map(move |key| (key, default)))
            .collect();
        let keys = leaves(&tree(&Config::default()));
        let mut names: Vec<&str> = described.iter().map(|(key, _)| *key).collect();
        names.sort_unstable();
        assert_eq!(names, keys.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>());
        for (key, default) in described {
            let value = &keys.iter().find(|(known, _)| known == key).unwrap().1;
            let wanted = match value {
                _ if key == "data_dir" => continue,
                Value::Null => "unset".to_owned(),
                value => format!("`{value}`"),
            };
            assert_eq!(default, wanted, "the default of {key}");
        }
    }
}
