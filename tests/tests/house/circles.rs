//! Circles of imports between the files of a crate.

use crate::imports::{Import, imports};
use rain_tests::source::Files;
use std::collections::{BTreeMap, BTreeSet};

/// All sets of more than two files that use each other in a circle, the files of each in order.
///
/// Two files that use each other are allowed: a module and its part often do.
pub(crate) fn circles(files: &Files) -> Vec<Vec<String>> {
    let imports = imports(files);
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        files.iter().map(|(path, _)| (path.as_str(), reached_from(path, &imports))).collect();
    let mut found = BTreeSet::new();
    for (file, reaches) in &reached {
        let circle: Vec<String> = reaches
            .iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(file)))
            .map(|other| (*other).to_owned())
            .collect();
        if circle.len() > 2 {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// A circle for people: its files, and every use within it.
pub(crate) fn describe(circle: &[String], files: &Files) -> String {
    let mut text = format!("{} files use each other in a circle: {}", circle.len(), circle.join(", "));
    let inside = |import: &Import| circle.contains(&import.from) && circle.contains(&import.to);
    for import in imports(files).iter().filter(|import| inside(import)) {
        text += &format!("\n  {}:{}: {}", import.from, import.line, import.path);
    }
    text
}

/// The files that a file uses, directly or through others.
fn reached_from<'a>(file: &str, imports: &'a [Import]) -> BTreeSet<&'a str> {
    let (mut reached, mut to_follow) = (BTreeSet::new(), vec![file]);
    while let Some(at) = to_follow.pop() {
        for import in imports.iter().filter(|import| import.from == at) {
            if reached.insert(import.to.as_str()) {
                to_follow.push(&import.to);
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imports::sources;

    #[test]
    fn a_circle_of_three_is_found_and_one_of_two_is_allowed() {
        let files = sources(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e; pub use a::A;"),
            ("a.rs", "use crate::b::B;"),
            ("b/mod.rs", "fn f() { crate::c::deep::g() }"),
            ("c/mod.rs", "mod deep;"),
            ("c/deep.rs", "use crate::A;"),
            ("d.rs", "use crate::{a::A, e::E};"),
            ("e.rs", "use crate::d::D;"),
        ]);
        let circle = ["a.rs", "b/mod.rs", "c/deep.rs"].map(str::to_owned).to_vec();
        assert_eq!(circles(&files), std::slice::from_ref(&circle));
        let text = describe(&circle, &files);
        assert!(text.contains("3 files") && text.contains("c/deep.rs:1: crate::A"), "{text}");
    }
}
