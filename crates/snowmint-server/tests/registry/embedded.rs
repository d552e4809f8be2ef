//! The embedded backend: the contract, and what its file does when it is damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use snowmint_server::registry::{EmbeddedRegistry, Registry, RegistryError};

use crate::contract::{self, namespace};

#[tokio::test]
async fn keeps_the_contract() {
    contract::check(async || {
        let directory = tempfile::tempdir().unwrap();
        move || Arc::new(EmbeddedRegistry::new(directory.path()).unwrap()) as Arc<dyn Registry>
    })
    .await;
}

async fn error_after(damage: impl Fn(&Path)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::new(directory.path()).unwrap();
    registry.open(&namespace()).await.unwrap();
    let file = directory.path().join("registry.json");
    damage(&file);
    let damaged = fs::read(&file).unwrap();
    let error = registry.open(&namespace()).await.unwrap_err();
    assert!(matches!(error, RegistryError::Corrupt { .. } | RegistryError::Format { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), damaged, "a damaged registry is left as it is");
    error.to_string()
}

#[tokio::test]
async fn damage_is_named_and_never_guessed_at() {
    let empty = error_after(|file| fs::write(file, "").unwrap()).await;
    assert!(empty.contains("it has no header") && empty.contains("registry.json"), "{empty}");

    let truncated = error_after(|file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(truncated.await.contains("its end is missing"));

    let flipped = error_after(|file| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(file, bytes).unwrap();
    });
    assert!(flipped.await.contains("checksum does not match"));

    let newer = error_after(|file| {
        let text = fs::read_to_string(file).unwrap();
        fs::write(file, text.replacen("snowmint-registry 1", "snowmint-registry 2", 1)).unwrap();
    });
    assert!(newer.await.contains("has format 2, this version of snowmint knows 1"));
}

/// What was written before a crash in the middle of a replacement is not read, and is written over.
#[tokio::test]
async fn a_torn_replacement_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let registry = EmbeddedRegistry::new(directory.path()).unwrap();
    let stands = registry.open(&namespace()).await.unwrap();
    fs::write(directory.path().join("registry.json.new"), "torn").unwrap();
    let worker = contract::worker("a");
    assert_eq!(registry.open(&namespace()).await.unwrap(), stands);
    let record = snowmint_server::registry::WindowRecord {
        owner: worker.owner.clone(),
        ceiling: snowmint::Id::new(1 << 22).unwrap(),
        ceiling_time: jiff::Timestamp::UNIX_EPOCH,
    };
    registry.claim(contract::SLOT, None, &record, &worker).await.unwrap();
    assert!(registry.slot(contract::SLOT).await.unwrap().window.is_some());
}
