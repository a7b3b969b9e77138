//! The order of the house, held: which part may use which, and how long a file or a line may be.

mod circles;
mod imports;
mod ladder;
mod size;

use rain_tests::source::{rust_files, tracked_files};

/// The parts of the client, from the bottom up.
const CLIENT: &[&[&str]] = &[
    &["error", "options", "stats"],
    &["rpc"],
    &["session"],
    &["block"],
    &["placement"],
    &["writeback"],
    &["file"],
    &["volume"],
    &["client", "admin"],
    &["tests"],
];

#[test]
fn no_file_of_rust_has_more_than_600_lines() {
    let files = tracked_files("rs").expect("the repository's sources");
    let long = size::long_files(files.iter().filter(|(path, _)| size::is_code(path)), 600);
    assert!(long.is_empty(), "split these by idea:\n{}", long.join("\n"));
}

#[test]
fn no_line_of_markdown_has_more_than_110_columns() {
    let long = size::long_lines(&tracked_files("md").expect("the repository's documents"), 110);
    assert!(long.is_empty(), "break these lines:\n{}", long.join("\n"));
}

#[test]
fn the_clients_rungs_use_only_those_below() {
    let broken = ladder::broken(CLIENT, &rust_files("client/src").expect("the client's sources"));
    assert!(broken.is_empty(), "the client is a ladder:\n{}", broken.join("\n"));
}

#[test]
fn no_two_files_of_the_client_import_each_other_in_a_circle_of_three() {
    let files = rust_files("client/src").expect("the client's sources");
    let found: Vec<String> =
        circles::circles(&files).iter().map(|circle| circles::describe(circle, &files)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_circle_of_three_files_of_storaged_goes_through_its_node() {
    let files = rust_files("storaged/src").expect("storaged's sources");
    let through_node = |circle: &Vec<String>| {
        circle.iter().any(|file| imports::module_of(file).first().is_some_and(|part| part == "node"))
    };
    let found: Vec<String> = circles::circles(&files)
        .iter()
        .filter(|circle| through_node(circle))
        .map(|circle| circles::describe(circle, &files))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}
