//! The parts of the daemon as a ladder: a part imports only parts of lower rungs. The table at the head of
//! `src/lib.rs` describes them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// From bottom to top. Parts of one rung do not import each other.
const RUNGS: &[&[&str]] = &[
    &["disk"],
    &["identity", "sessions", "open_files", "share_gate", "counters", "addresses", "obeyed"],
    &["ring", "metadata", "share"],
    &["config", "bootstrap", "transport", "joined"],
    &["own_client", "ring_feed", "inode_leases"],
    &["service", "worker"],
    &["node"],
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The parts that a text imports by `crate::`.
fn imports(text: &str) -> Vec<String> {
    let code =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let names = code.split("crate::").skip(1).map(|rest| {
        rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect::<String>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

#[test]
fn a_part_imports_only_parts_of_lower_rungs() {
    let rung: BTreeMap<&str, usize> = RUNGS
        .iter()
        .enumerate()
        .flat_map(|(rung, parts)| parts.iter().map(move |part| (*part, rung)))
        .collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files {
        let inside = file.strip_prefix(&src).unwrap();
        let part = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&part) {
            continue;
        }
        let own = rung.get(part).unwrap_or_else(|| panic!("{part} has no rung"));
        for used in imports(&std::fs::read_to_string(&file).unwrap()) {
            let below = rung.get(used.as_str()).unwrap_or_else(|| panic!("{used} has no rung"));
            assert!(
                used == part || below < own,
                "{} imports {used}, which is not below {part}",
                inside.display()
            );
        }
    }
}

/// Queries of the node's own client may be answered from an old state; those of the authority never are.
#[test]
fn only_the_workers_authority_has_the_client() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/worker");
    let mut files = Vec::new();
    sources(&src, &mut files);
    for file in files.iter().filter(|file| !file.ends_with("authority.rs")) {
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let names_it = |line: &&str| {
            let mut words = line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_'));
            words.any(|word| word == "Client") || line.contains(".client()")
        };
        let named = code.filter(names_it).count();
        assert_eq!(named, 0, "{} names the client: ask the authority", file.display());
    }
}
