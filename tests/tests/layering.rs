//! Holds the layers of docs/architecture.md: a crate uses only crates below it, and the pure crates have no
//! I/O, async, clock or randomness.

use rain_tests::source::{Files, root, rust_files};
use std::collections::BTreeMap;
use std::process::Command;

fn sources_of(part: &str) -> Files {
    rust_files(&format!("{part}/src")).expect("the crate's sources")
}

/// The direct dependencies of every crate of the workspace, without those for tests and builds.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["kind"].is_null())
                .map(|dependency| text(&dependency["name"]))
                .collect();
            (text(&package["name"]), normal)
        })
        .collect()
}

#[test]
fn a_part_uses_only_parts_below_it() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("rain-types", &[][..]),
        ("rain-codec", &[]),
        ("rain-namespace", &["rain-types"]),
        ("rain-ring", &["rain-types"]),
        ("rain-sim", &["rain-types", "rain-ring", "rain-namespace", "storaged"]),
        ("rain-proto", &["rain-types", "rain-codec", "rain-namespace"]),
        ("rain-client", &["rain-types", "rain-codec", "rain-namespace", "rain-proto"]),
        (
            "storaged",
            &[
                "rain-types",
                "rain-codec",
                "rain-namespace",
                "rain-ring",
                "rain-proto",
                "rain-client",
                "rain-checkpoint",
            ],
        ),
        ("rain-fuse", &["rain-types", "rain-namespace", "rain-client"]),
        ("rain-checkpoint", &["rain-types", "rain-namespace", "rain-client"]),
        (
            "rain",
            &[
                "rain-types",
                "rain-codec",
                "rain-namespace",
                "rain-proto",
                "rain-client",
                "rain-checkpoint",
                "rain-fuse",
                "storaged",
            ],
        ),
    ]);
    let dependencies = dependencies();
    for (part, below) in allowed {
        let uses = dependencies.get(part).unwrap_or_else(|| panic!("no crate {part}"));
        for used in uses.iter().filter(|used| dependencies.contains_key(*used)) {
            assert!(below.contains(&used.as_str()), "{part} uses {used}, which is not below it");
        }
    }
}

#[test]
fn the_pure_crates_use_only_pure_libraries() {
    // A new library in this list is a decision: it must do no I/O, start no threads, and read no clock and no
    // randomness.
    let pure: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("rain-types", &["serde"][..]),
        // rustix only for executable memory for machine code: see the test below and
        // docs/decisions/0005-machine-code.md.
        ("rain-codec", &["reed-solomon-erasure", "rustix", "thiserror"]),
        ("rain-namespace", &["rain-types", "blake3", "postcard", "serde", "thiserror"]),
        ("rain-ring", &["rain-types", "postcard", "serde", "thiserror"]),
    ]);
    let dependencies = dependencies();
    for (part, libraries) in pure {
        for used in &dependencies[part] {
            assert!(libraries.contains(&used.as_str()), "{part} is pure and may not use {used}");
        }
    }
}

#[test]
fn only_the_codecs_machine_code_asks_for_memory_and_uses_unsafe() {
    for part in ["types", "codec", "namespace", "ring"] {
        for (path, text) in sources_of(part) {
            let may = (part, path.as_str()) == ("codec", "xor/native/mod.rs");
            for word in ["rustix", "unsafe"] {
                assert!(may || !text.contains(word), "{part}/src/{path}: {word} in a pure crate");
            }
        }
    }
}

#[test]
fn the_pure_crates_touch_neither_world_nor_time() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::io",
        "std::time::Instant",
        "std::time::SystemTime",
        "Instant::now",
        "SystemTime::now",
        "std::thread",
        "std::env",
        "std::process",
        "HashMap",
        "HashSet",
        "async fn",
        "RandomState",
    ];
    for part in ["types", "codec", "namespace", "ring"] {
        for (path, text) in sources_of(part) {
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for (number, line) in
                code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
            {
                for word in forbidden {
                    let at = format!("{part}/src/{path}:{}", number + 1);
                    assert!(!line.contains(word), "{at}: {word} in a pure crate");
                }
            }
        }
    }
}
