//! Files and lines that are too long to be read at once.

use rain_tests::source::Files;

/// Whether a Rust file is code of this project, and not a test, a bench or an example. The libraries of the
/// tests are code.
pub(crate) fn is_code(path: &str) -> bool {
    let path =
        ["tests/sim/src/", "tests/src/"].iter().find_map(|code| path.strip_prefix(code)).unwrap_or(path);
    !path.split('/').any(|folder| ["tests", "benches", "examples", "third-party"].contains(&folder))
}

/// All files with more lines than `most`.
pub(crate) fn long_files<'a>(
    files: impl IntoIterator<Item = &'a (String, String)>,
    most: usize,
) -> Vec<String> {
    let lines = files.into_iter().map(|(path, text)| (path, text.lines().count()));
    lines.filter(|(_, lines)| *lines > most).map(|(path, lines)| format!("{path}: {lines} lines")).collect()
}

/// All lines with more columns than `most`. A column is a character.
pub(crate) fn long_lines(files: &Files, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > most {
                found.push(format!("{path}:{}: {columns} columns", at + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imports::sources;

    #[test]
    fn tests_are_no_code_but_their_libraries_are() {
        for code in
            ["client/src/a.rs", "tests/src/real/lan.rs", "tests/sim/src/world.rs", "xtask/src/main.rs"]
        {
            assert!(is_code(code), "{code}");
        }
        for test in [
            "client/tests/a.rs",
            "tests/tests/real/main.rs",
            "tests/sim/tests/a.rs",
            "benches/src/a.rs",
            "third-party/x/src/a.rs",
        ] {
            assert!(!is_code(test), "{test}");
        }
    }

    #[test]
    fn columns_are_characters() {
        let files = sources(&[("a.md", "ääää\näääää\n"), ("b.md", "")]);
        assert_eq!(long_lines(&files, 4), ["a.md:2: 5 columns"]);
        assert_eq!(long_files(&files, 1), ["a.md: 2 lines"]);
    }
}
