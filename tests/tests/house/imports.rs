//! Which file of a crate uses which other file, read from the sources.
//!
//! A use is a path that begins with `crate`, `super`, `self` or a module declared in the same file. It stands
//! in a `use` or in code. Comments, strings and items under `#[cfg(test)]` are not read. A name that a module
//! only imports or re-exports stands for the file that defines it. A glob import is a use of the module
//! itself.

use rain_tests::source::Files;
use std::collections::BTreeMap;

/// A module's path within its crate; the crate's root is empty.
pub(crate) type Module = Vec<String>;

/// One file uses another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Import {
    /// The using file.
    pub(crate) from: String,
    /// Line of the use in that file, from 1.
    pub(crate) line: usize,
    /// The path as the crate's root would write it: `crate::a::Item`.
    pub(crate) path: String,
    /// The file that defines the item.
    pub(crate) to: String,
}

/// A path that a file mentions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mention {
    line: usize,
    segments: Vec<String>,
    /// Name under which a `use` makes the item known in its module.
    imported_as: Option<String>,
    /// In a `pub use` of any visibility.
    exported: bool,
}

/// The module that a file of `src` is.
pub(crate) fn module_of(path: &str) -> Module {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || ["lib", "main"].contains(&path) {
        module.pop();
    }
    module
}

/// All uses between files of one crate; `files` are those of its `src`.
///
/// The root (`lib.rs`, `main.rs`) appears only as a target, because its re-exports make no circle. A module's
/// re-exports of its own children are no uses either.
pub(crate) fn imports(files: &Files) -> Vec<Import> {
    let tree = Tree::new(files);
    let mut found = Vec::new();
    for (from, mentions) in &tree.mentions {
        let module = module_of(from);
        for mention in mentions {
            let Some(path) = absolute(&module, &mention.segments) else { continue };
            let Some(to) = tree.file_of(&path) else { continue };
            let re_exports_child = mention.exported && path.len() > module.len() && path.starts_with(&module);
            if module.is_empty() || to == from || re_exports_child {
                continue;
            }
            let path = format!("crate::{}", path.join("::"));
            found.push(Import { from: from.clone(), line: mention.line, path, to: to.to_owned() });
        }
    }
    found
}

/// The modules of a crate, and the names that each imports.
struct Tree {
    files: BTreeMap<Module, String>,
    mentions: BTreeMap<String, Vec<Mention>>,
    imported: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

impl Tree {
    fn new(files: &Files) -> Tree {
        let mut tree = Tree { files: BTreeMap::new(), mentions: BTreeMap::new(), imported: BTreeMap::new() };
        for (path, text) in files {
            let module = module_of(path);
            let mentions = mentions(&code_of(text));
            let imported: &mut BTreeMap<_, _> = tree.imported.entry(module.clone()).or_default();
            for mention in &mentions {
                if let (Some(name), Some(path)) = (&mention.imported_as, absolute(&module, &mention.segments))
                {
                    imported.insert(name.clone(), path);
                }
            }
            tree.files.insert(module, path.clone());
            tree.mentions.insert(path.clone(), mentions);
        }
        tree
    }

    /// The file that defines what a path from the crate's root names.
    fn file_of(&self, path: &[String]) -> Option<&str> {
        let mut path = path.to_vec();
        // As many imports of imports as are followed.
        for _ in 0..8 {
            let mut module = Module::new();
            let inside = |module: &Module, name: &String| [&module[..], std::slice::from_ref(name)].concat();
            while let Some(name) = path.get(module.len())
                && self.files.contains_key(&inside(&module, name))
            {
                module.push(name.clone());
            }
            let imported = path.get(module.len()).and_then(|name| self.imported.get(&module)?.get(name));
            match imported {
                Some(target) => path = [target, &path[module.len() + 1..]].concat(),
                None => return self.files.get(&module).map(String::as_str),
            }
        }
        None
    }
}

/// A mentioned path from the crate's root; none for other crates' items.
fn absolute(module: &Module, segments: &[String]) -> Option<Vec<String>> {
    let mut at = module.clone();
    let mut rest = segments;
    match segments.first()?.as_str() {
        "crate" => (at, rest) = (Module::new(), &rest[1..]),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                at.pop()?;
                rest = &rest[1..];
            }
        }
        // A module declared in this file.
        _ => {}
    }
    at.extend(rest.iter().cloned());
    Some(at)
}

/// The text without comments, strings, characters and items under `#[cfg(test)]`. Lines keep their numbers.
fn code_of(text: &str) -> Vec<char> {
    let mut code: Vec<char> = text.chars().collect();
    let mut at = 0;
    while at < code.len() {
        let end = match code[at] {
            '/' if code[at..].starts_with(&['/', '/']) => find(&code, at, |rest| rest[0] == '\n'),
            '/' if code[at..].starts_with(&['/', '*']) => end_of_comment(&code, at),
            'r' | 'b' | 'c' | '"' if at == 0 || !is_word(code[at - 1]) => match end_of_string(&code, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            '\'' if code.get(at + 1) == Some(&'\\') => find(&code, at + 3, |rest| rest[0] == '\'') + 1,
            '\'' if code.get(at + 2) == Some(&'\'') => at + 3,
            _ => {
                at += 1;
                continue;
            }
        };
        blank(&mut code, at, end);
        at = end;
    }
    let marker: Vec<char> = "#[cfg(test)]".chars().collect();
    let mut at = 0;
    while at < code.len() {
        if code[at..].starts_with(&marker) {
            let end = end_of_item(&code, at + marker.len());
            blank(&mut code, at, end);
        }
        at += 1;
    }
    code
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn find(code: &[char], from: usize, is_it: impl Fn(&[char]) -> bool) -> usize {
    (from..code.len()).find(|at| is_it(&code[*at..])).unwrap_or(code.len())
}

fn blank(code: &mut [char], from: usize, to: usize) {
    let to = to.min(code.len());
    code[from..to].iter_mut().filter(|letter| **letter != '\n').for_each(|letter| *letter = ' ');
}

fn end_of_comment(code: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0);
    while at < code.len() {
        if code[at..].starts_with(&['/', '*']) {
            (at, depth) = (at + 2, depth + 1);
        } else if code[at..].starts_with(&['*', '/']) {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// The end of the string that begins here, also of a raw or a byte string; none if there is none.
fn end_of_string(code: &[char], from: usize) -> Option<usize> {
    let quote = find(code, from, |rest| !"rbc#".contains(rest[0]));
    let prefix = &code[from..quote.min(code.len())];
    if code.get(quote) != Some(&'"') || prefix.len() > 2 && !prefix.contains(&'#') {
        return None;
    }
    if prefix.contains(&'r') {
        let hashes = prefix.iter().filter(|letter| **letter == '#').count();
        let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
        return Some(find(code, quote + 1, |rest| rest.starts_with(&end)) + end.len());
    }
    let mut at = quote + 1;
    while at < code.len() && code[at] != '"' {
        at += if code[at] == '\\' { 2 } else { 1 };
    }
    Some(at + 1)
}

/// The end of an item: its semicolon, or the brace that closes its body.
fn end_of_item(code: &[char], from: usize) -> usize {
    let mut depth = 0;
    for (at, letter) in code.iter().enumerate().skip(from) {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth -= 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Words, and single other letters, with their lines; `::` is one token.
fn tokens(code: &[char]) -> Vec<(usize, String)> {
    let (mut tokens, mut line, mut at) = (Vec::new(), 1, 0);
    while at < code.len() {
        let end = match code[at] {
            letter if is_word(letter) => find(code, at, |rest| !is_word(rest[0])),
            ':' if code.get(at + 1) == Some(&':') => at + 2,
            _ => at + 1,
        };
        if code[at] == '\n' {
            line += 1;
        } else if !code[at].is_whitespace() {
            tokens.push((line, code[at..end].iter().collect()));
        }
        at = end;
    }
    tokens
}

fn mentions(code: &[char]) -> Vec<Mention> {
    let tokens = tokens(code);
    let word = |at: usize| tokens.get(at).map_or("", |(_, word)| word.as_str());
    let children: Vec<&str> = (0..tokens.len())
        .filter(|at| word(*at) == "mod" && word(at + 2) == ";")
        .map(|at| word(at + 1))
        .collect();
    let begins_path = |at: usize| {
        let head = word(at);
        let goes_on = at > 0 && ["::", "."].contains(&word(at - 1));
        let known = ["crate", "super", "self"].contains(&head) || children.contains(&head);
        known && !goes_on && word(at + 1) == "::"
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let in_use = word(at) == "use";
        // `pub(in crate::a)` says who sees an item and uses nothing.
        let visibility = at >= 3 && word(at - 1) == "in" && word(at - 3) == "pub";
        let head = if in_use { at + 1 } else { at };
        if !begins_path(head) || visibility {
            at += 1;
            continue;
        }
        let exported = in_use && at > 0 && (word(at - 1) == "pub" || word(at - 1) == ")");
        let mut reader = Reader { tokens: &tokens, at: head, in_use, exported, found: &mut found };
        reader.path(&[]);
        at = reader.at.max(at + 1);
    }
    found
}

/// Reads a path with its groups: `a::{b, c::d as e, f::*}`.
struct Reader<'a> {
    tokens: &'a [(usize, String)],
    at: usize,
    in_use: bool,
    exported: bool,
    found: &'a mut Vec<Mention>,
}

impl Reader<'_> {
    fn word(&self) -> &str {
        self.tokens.get(self.at).map_or("", |(_, word)| word)
    }

    fn path(&mut self, before: &[String]) {
        let mut segments = before.to_vec();
        loop {
            match self.word() {
                "{" => return self.group(&segments),
                "*" => {
                    self.at += 1;
                    return self.mention(segments, None);
                }
                word if word.chars().all(is_word) && !word.is_empty() => segments.push(word.to_owned()),
                // `::<T>`.
                _ => return self.mention(segments, None),
            }
            self.at += 1;
            if self.word() != "::" {
                break;
            }
            self.at += 1;
        }
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let mut name = segments.last().cloned();
        if self.in_use && self.word() == "as" {
            self.at += 1;
            name = Some(self.word().to_owned());
            self.at += 1;
        }
        self.mention(segments, name.filter(|_| self.in_use));
    }

    fn group(&mut self, before: &[String]) {
        self.at += 1;
        while !["}", ""].contains(&self.word()) {
            self.path(before);
            if self.word() == "," {
                self.at += 1;
            }
        }
        self.at += 1;
    }

    fn mention(&mut self, segments: Vec<String>, imported_as: Option<String>) {
        let line = self.tokens.get(self.at.saturating_sub(1)).map_or(0, |(line, _)| *line);
        self.found.push(Mention { line, segments, imported_as, exported: self.exported });
    }
}

/// Made-up sources.
pub(crate) fn sources(files: &[(&str, &str)]) -> Files {
    files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(String, usize, String)> {
        let found = imports(&sources(files)).into_iter();
        found.map(|import| (format!("{} -> {}", import.from, import.to), import.line, import.path)).collect()
    }

    #[test]
    fn a_group_and_a_path_in_code_are_uses_at_their_lines() {
        let text =
            "use crate::{\n    b::{self, Item as Other},\n    c::*,\n};\nfn f() { crate::d::g::<u8>(); }\n";
        let files = [("a.rs", text), ("b.rs", ""), ("c.rs", ""), ("d.rs", "")];
        let expected = [
            ("a.rs -> b.rs", 2, "crate::b"),
            ("a.rs -> b.rs", 2, "crate::b::Item"),
            ("a.rs -> c.rs", 3, "crate::c"),
            ("a.rs -> d.rs", 5, "crate::d::g"),
        ];
        assert_eq!(found(&files), expected.map(|(files, line, path)| (files.into(), line, path.into())));
    }

    #[test]
    fn a_name_stands_for_the_file_that_defines_it() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::Item;"),
            ("a/mod.rs", "mod inner; pub use inner::{Item, Deep as Other};"),
            ("a/inner.rs", "use super::super::b::B;"),
            ("b.rs", "use crate::Item; use crate::a::Other;"),
        ];
        let files: Vec<String> = found(&files).into_iter().map(|(files, ..)| files).collect();
        assert_eq!(files, ["a/inner.rs -> b.rs", "b.rs -> a/inner.rs", "b.rs -> a/inner.rs"]);
    }

    #[test]
    fn a_modules_child_is_used_by_its_name() {
        let files = [("a/mod.rs", "mod one; mod two; fn f() { one::g(); x.two::<u8>() }"), ("a/one.rs", "")];
        assert_eq!(found(&files), [("a/mod.rs -> a/one.rs".into(), 1, "crate::a::one::g".into())]);
    }

    #[test]
    fn comments_strings_and_tests_are_not_read() {
        let text = r##"
            //! [`crate::b`]
            /* crate::b /* crate::b */ crate::b */
            fn f<'a>(x: &'a str) -> char { (r#"" crate::b"#, "crate::b \" crate::b", b"crate::b"); '"' }
            #[cfg(test)]
            mod tests { use crate::b::C; fn g() { super::f(""); } }
            #[cfg(test)]
            use crate::b;
            fn last() { crate::c::d(); }
        "##;
        let files = [("a.rs", text), ("b.rs", ""), ("c.rs", "")];
        assert_eq!(found(&files), [("a.rs -> c.rs".into(), 9, "crate::c::d".into())]);
    }
}
