//! A crate as a ladder: each part uses only parts on lower rungs. Parts on one rung may use each other.
//!
//! A part is a file or a folder directly under `src`.

use crate::imports::{imports, module_of};
use rain_tests::source::Files;

/// Every use of a part that is above its user, one line each: the file, the line, and the two parts.
///
/// `ladder` lists the parts of each rung, from the bottom up.
pub(crate) fn broken(ladder: &[&[&str]], files: &Files) -> Vec<String> {
    let part_of = |file: &str| module_of(file).first().cloned();
    let rung_of = |part: &str| ladder.iter().position(|rung| rung.contains(&part));
    let mut broken = Vec::new();
    for part in files.iter().filter_map(|(path, _)| part_of(path)) {
        let message = format!("{part} is on no rung of the ladder");
        if rung_of(&part).is_none() && !broken.contains(&message) {
            broken.push(message);
        }
    }
    for import in imports(files) {
        let at = format!("{}:{}", import.from, import.line);
        let (Some(user), path) = (part_of(&import.from), import.path) else { continue };
        let Some(used) = part_of(&import.to) else {
            broken.push(format!("{at}: {path} is defined in lib.rs, which only declares and re-exports"));
            continue;
        };
        if let (Some(of_user), Some(of_used)) = (rung_of(&user), rung_of(&used))
            && of_used > of_user
        {
            broken.push(format!("{at}: {user} uses {path}, but {used} is not below {user}"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imports::sources;

    const LADDER: &[&[&str]] = &[&["error", "stats"], &["rpc"], &["file"]];

    #[test]
    fn a_rung_that_imports_upwards_is_found() {
        let files = sources(&[
            ("error.rs", ""),
            ("rpc/mod.rs", "use crate::error::Error;\nmod leader;"),
            (
                "rpc/leader.rs",
                "// crate::file is above\nuse crate::{error::Error, file::Open};\nuse super::Node;",
            ),
            ("file.rs", "use crate::rpc::leader::Leader;"),
        ]);
        let expected = "rpc/leader.rs:2: rpc uses crate::file::Open, but file is not below rpc";
        assert_eq!(broken(LADDER, &files), [expected]);
    }

    #[test]
    fn super_that_leaves_the_rung_is_found() {
        let files = sources(&[
            ("rpc/mod.rs", "mod deep;"),
            ("rpc/deep.rs", "fn f() { super::super::file::g() }"),
            ("file.rs", ""),
        ]);
        let expected = "rpc/deep.rs:1: rpc uses crate::file::g, but file is not below rpc";
        assert_eq!(broken(LADDER, &files), [expected]);
    }

    #[test]
    fn parts_on_one_rung_may_use_each_other_and_a_part_without_a_rung_is_found() {
        let files = sources(&[
            ("error.rs", "use crate::stats::Stats;"),
            ("stats.rs", "use crate::error::Error;"),
            ("helpers.rs", ""),
        ]);
        assert_eq!(broken(LADDER, &files), ["helpers is on no rung of the ladder"]);
    }

    #[test]
    fn what_the_root_re_exports_is_on_its_own_rung_and_the_root_defines_nothing() {
        let files = sources(&[
            ("lib.rs", "mod file;\nmod rpc;\npub use file::Open;\npub const MAX: usize = 1;"),
            ("file.rs", ""),
            ("rpc.rs", "use crate::Open;\nuse crate::MAX;"),
        ]);
        let expected = [
            "rpc.rs:1: rpc uses crate::Open, but file is not below rpc",
            "rpc.rs:2: crate::MAX is defined in lib.rs, which only declares and re-exports",
        ];
        assert_eq!(broken(LADDER, &files), expected);
    }
}
