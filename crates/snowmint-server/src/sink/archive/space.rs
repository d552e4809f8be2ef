//! Keeps a directory as small as it is to be.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::archive::ObjectKey;

/// How old what a put has left is when no put can be at it any more, in seconds.
const LEFT_S_MIN: u64 = 3_600;

/// How deep an object lies: `year=…/month=…/day=…/hour=…/…`.
const DEPTH_MAX: usize = 5;

/// Removes the oldest objects until the others fit, and says so; and what puts that were cut short have left.
pub(super) fn keep_within(directory: &Path, bytes_max: u64) -> io::Result<()> {
    let mut objects = BTreeMap::new();
    find(directory, "", DEPTH_MAX, &mut objects)?;
    let mut bytes: u64 = objects.values().sum();
    let mut removed = 0;
    let mut until = None;
    for (key, object_bytes) in objects {
        if bytes <= bytes_max {
            break;
        }
        let path = directory.join(key.to_string());
        remove(&path)?;
        // The hour's directory goes with its last object, and so on. One that is not empty stays.
        for parent in path.ancestors().skip(1).take(DEPTH_MAX - 1) {
            if fs::remove_dir(parent).is_err() {
                break;
            }
        }
        bytes -= object_bytes;
        removed += 1;
        until = Some(key);
    }
    if let Some(until) = until {
        tracing::warn!(
            "the archive {} was larger than audit.max_bytes ({bytes_max}): its {removed} oldest objects were removed, \
             up to {until}",
            directory.display()
        );
    }
    Ok(())
}

fn find(
    directory: &Path,
    below: &str,
    depth: usize,
    objects: &mut BTreeMap<ObjectKey, u64>,
) -> io::Result<()> {
    let entries = match fs::read_dir(directory.join(below)) {
        // Nodes that share the directory keep it small together.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            if depth > 1 {
                find(directory, &path, depth - 1, objects)?;
            }
        } else if let Ok(key) = path.parse() {
            objects.insert(key, metadata.len());
        } else if path.contains(".json.gz#") && is_left(&metadata) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn is_left(metadata: &fs::Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age >= Duration::from_secs(LEFT_S_MIN))
}

fn remove(path: &Path) -> io::Result<()> {
    super::file::remove(path)
}
