//! The source files of the workspace, with comments and strings taken out where a check needs that.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A text file of the repository.
#[derive(Debug)]
pub struct SourceFile {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    pub text: String,
}

/// A function and the number of its lines that hold code.
#[derive(Debug, Eq, PartialEq)]
pub struct Function {
    pub name: String,
    /// From 1.
    pub line: usize,
    pub code_lines: usize,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// Every `.rs` and `.md` file, sorted by path.
pub fn all() -> anyhow::Result<Vec<SourceFile>> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let is_hidden = name.starts_with('.') || name == "target";
            if path.is_dir() && !is_hidden {
                folders.push(path);
            } else if name.ends_with(".rs") || name.ends_with(".md") {
                let relative = path.strip_prefix(&root)?.to_string_lossy().into_owned();
                files.push(SourceFile { path: relative, text: fs::read_to_string(&path)? });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

impl SourceFile {
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the file holds nothing but tests.
    pub fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
            || self.path.ends_with("/recorded.rs")
            || self.path.starts_with("crates/codexd-testkit/")
            || self.path.starts_with("xtask/")
    }

    /// The lines with their numbers, without the unit tests at the end of the file.
    pub fn lines_outside_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.take_while(|(_, line)| *line != "#[cfg(test)]")
    }

    /// The folder that an allowance is for: `crates/codexd-host/src`, `docs`, `.`.
    pub fn folder(&self) -> String {
        let parts: Vec<&str> = self.path.split('/').collect();
        match parts[..] {
            ["crates", name, folder, _, ..] => format!("crates/{name}/{folder}"),
            [folder, _, ..] => folder.to_owned(),
            _ => ".".to_owned(),
        }
    }

    /// The functions of the file, in order. Blank lines and comments are not counted.
    pub fn functions(&self) -> Vec<Function> {
        let code = without_strings_and_comments(&self.text);
        let lines: Vec<&str> = code.lines().collect();
        let mut functions = Vec::new();
        for (index, line) in lines.iter().enumerate() {
            if let Some(name) = function_name(line) {
                let code_lines = code_lines_of_body(&lines[index..]);
                functions.push(Function { name: name.to_owned(), line: index + 1, code_lines });
            }
        }
        functions
    }
}

/// The name of the function that a line begins, if it begins one.
fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_function = before.is_empty() || before.ends_with([' ', '\t']);
    let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_')?;
    (is_function && end > 0 && !before.contains(['=', ':'])).then(|| &rest[..end])
}

/// The lines with code from the head of a function to its closing brace; 0 if it has no body.
fn code_lines_of_body(lines: &[&str]) -> usize {
    let (mut depth, mut count) = (0_usize, 0);
    for line in lines {
        count += usize::from(!line.trim().is_empty());
        for letter in line.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 1 => return count,
                '}' => depth = depth.saturating_sub(1),
                ';' if depth == 0 && !line.contains('[') => return 0,
                _ => {}
            }
        }
    }
    count
}

/// The same text, line by line, with the contents of strings, characters and comments removed.
pub fn without_strings_and_comments(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at..] {
            ['/', '/', ..] => find(&bytes, at, |rest| rest[0] == '\n'),
            ['/', '*', ..] => find(&bytes, at + 2, |rest| matches!(rest, ['*', '/', ..])) + 2,
            ['"', ..] => end_of_string(&bytes, at),
            ['r', '"', ..] | ['r', '#', ..] if !after_identifier(&bytes, at) => end_of_raw(&bytes, at),
            ['\'', '\\', ..] => find(&bytes, at + 3, |rest| rest[0] == '\'') + 1,
            ['\'', _, '\'', ..] => at + 3,
            _ => {
                code.push(bytes[at]);
                at + 1
            }
        };
        let end = end.min(bytes.len());
        if end > at + 1 {
            code.extend(bytes[at..end].iter().filter(|letter| **letter == '\n'));
        }
        at = end;
    }
    code
}

fn after_identifier(text: &[char], at: usize) -> bool {
    at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_')
}

fn find(text: &[char], from: usize, is_end: impl Fn(&[char]) -> bool) -> usize {
    (from..text.len()).find(|&at| is_end(&text[at..])).unwrap_or(text.len())
}

fn end_of_string(text: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < text.len() && text[at] != '"' {
        at += if text[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The end of a raw string; one letter further if it is none, as in `r#type`.
fn end_of_raw(text: &[char], start: usize) -> usize {
    let hashes = text[start + 1..].iter().take_while(|letter| **letter == '#').count();
    if text.get(start + 1 + hashes) != Some(&'"') {
        return start + 1;
    }
    let is_end = |rest: &[char]| {
        rest[0] == '"' && rest[1..].iter().take(hashes).filter(|letter| **letter == '#').count() == hashes
    };
    find(text, start + 2 + hashes, is_end) + 1 + hashes
}
