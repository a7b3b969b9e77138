//! The order of the house, held: which part may use which, and how long a file or a line may be.

mod circles;
mod imports;
mod ladder;
mod size;

use rain_tests::source::tracked_files;

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
