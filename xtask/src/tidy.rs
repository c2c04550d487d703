//! Checks of the text of the repository: standard words, limits in `limits.rs`, the "Where is" table, sizes.
//!
//! What still breaks a rule is counted per folder in `tidy/allowances.txt`. A count there may only shrink: a larger number
//! of findings fails, and a smaller one fails until the file has the smaller number. `TIDY_SHRINK=1 cargo test -p xtask
//! tidy` writes the smaller numbers.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};

mod source;
mod where_is;

use source::SourceFile;

const WORDS: &str = include_str!("tidy/words.txt");
const ALLOWANCES: &str = "xtask/src/tidy/allowances.txt";
/// Lines of a file, and of a function without blank lines and comments.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// Nine files in ten of a crate's `src` stay below this.
const LONG_FILE_LINES: usize = 400;

/// One place that breaks a rule.
#[derive(Debug)]
struct Finding {
    rule: &'static str,
    folder: String,
    /// The word, the constant, the function, the file name.
    item: String,
    /// File and line, and what to write instead.
    message: String,
}

type Key = (String, String, String);

/// Fails with every finding beyond the allowances of these rules, and with every allowance that is too large.
fn check(rules: &[&str], findings: &[Finding]) -> anyhow::Result<()> {
    let mut found: BTreeMap<Key, Vec<&str>> = BTreeMap::new();
    for finding in findings {
        let key = (finding.rule.to_owned(), finding.folder.clone(), finding.item.clone());
        found.entry(key).or_default().push(&finding.message);
    }
    // The tests run at once and rewrite one file.
    static ALLOWANCES_FILE: Mutex<()> = Mutex::new(());
    let _guard = ALLOWANCES_FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let path = source::root().join(ALLOWANCES);
    let text = fs::read_to_string(&path).unwrap_or_default();
    if std::env::var_os("TIDY_SHRINK").is_some() {
        return fs::write(&path, shrunk(&text, rules, &found)).context("failed to write the allowances");
    }
    let mut problems = Vec::new();
    let allowed = allowances(&text);
    for (key, messages) in &found {
        let allowed = allowed.get(key).copied().unwrap_or_default();
        if messages.len() > allowed {
            problems.push(format!("{} ({} are allowed)", messages.join("\n"), allowed));
        }
    }
    for (key, &allowed) in allowed.iter().filter(|(key, _)| rules.contains(&key.0.as_str())) {
        let now = found.get(key).map_or(0, Vec::len);
        if now < allowed {
            let (rule, folder, item) = key;
            problems.push(format!(
                "{ALLOWANCES} allows {allowed} of `{item}` ({rule}) in {folder}, and {now} are left: run \
                 `TIDY_SHRINK=1 cargo test -p xtask tidy`"
            ));
        }
    }
    ensure!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    Ok(())
}

/// The allowances: `count`, rule, folder, item, parted by tabs; a fifth column may hold a reason.
fn allowances(text: &str) -> BTreeMap<Key, usize> {
    let mut allowed = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t').map(str::to_owned);
        if let (Some(count), Some(rule), Some(folder), Some(item)) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        {
            allowed.insert((rule, folder, item), count.parse().unwrap_or_default());
        }
    }
    allowed
}

/// The allowances with the counts of these rules lowered to what is left. Nothing is raised or added.
fn shrunk(text: &str, rules: &[&str], found: &BTreeMap<Key, Vec<&str>>) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [count, rule, folder, item, ref reason @ ..] = columns[..] else {
            lines.push(line.to_owned());
            continue;
        };
        let key = (rule.to_owned(), folder.to_owned(), item.to_owned());
        let now = found.get(&key).map_or(0, Vec::len);
        let count = count.parse::<usize>().unwrap_or_default();
        let left = if rules.contains(&rule) { count.min(now) } else { count };
        if left > 0 {
            let left = left.to_string();
            let columns = [&[left.as_str(), rule, folder, item][..], reason].concat();
            lines.push(columns.join("\t"));
        }
    }
    lines.join("\n") + "\n"
}

/// Where `word` stands in `line` as a whole word.
fn holds_word(line: &str, word: &str) -> bool {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

fn words_in(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in WORDS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = entry.split(" | ").collect();
        let [kind, pattern, instead] = columns[..] else { continue };
        let finding = |place: String| Finding {
            rule: if kind == "file" { "file" } else { "word" },
            folder: file.folder(),
            item: pattern.to_owned(),
            message: format!("{place}: `{pattern}` → {instead}"),
        };
        if kind == "file" && format!("/{}", file.path).ends_with(&format!("/{pattern}")) {
            findings.push(finding(file.path.clone()));
        } else if kind == "word" && file.text.contains(pattern) {
            let lines = file.text.lines().enumerate().filter(|(_, line)| holds_word(line, pattern));
            findings.extend(lines.map(|(index, _)| finding(format!("{}:{}", file.path, index + 1))));
        }
    }
    findings
}

/// The constant that a line makes, if it is a duration or a size.
fn limit_of(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once("const ")?.1.split_once(':')?;
    let (kind, value) = rest.split_once('=')?;
    let is_literal = value.trim_start().starts_with(|letter: char| letter.is_ascii_digit());
    let is_size = ["_MS", "_US", "_SECONDS", "_BYTES", "_KIB", "_MAX", "_MIN"];
    let is_number = ["u8", "u16", "u32", "u64", "usize", "i32", "i64"].contains(&kind.trim());
    let is_limit = is_number && is_literal && is_size.iter().any(|ending| name.ends_with(ending));
    (kind.trim() == "Duration" || is_limit).then_some(name)
}

/// Whether a line makes a duration of a literal number.
fn holds_duration(line: &str) -> bool {
    line.match_indices("Duration::from_").any(|(at, _)| {
        let argument = line[at..].split_once('(').map(|(_, argument)| argument);
        argument.is_some_and(|argument| argument.starts_with(|letter: char| letter.is_ascii_digit()))
    })
}

fn limits_in(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.lines_outside_tests() {
        let name = limit_of(line).or_else(|| holds_duration(line).then_some("Duration::from_…"));
        if let Some(name) = name.filter(|_| !line.trim_start().starts_with("//")) {
            let place = format!("{}:{number}", file.path);
            let message = format!("{place}: `{name}` → a constant of the crate's limits.rs, with its unit");
            findings.push(Finding { rule: "limit", folder: file.folder(), item: name.to_owned(), message });
        }
    }
    findings
}

fn sizes_of(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!("{}: {lines} lines → at most {FILE_LINES_MAX}: split the file", file.path);
        findings.push(Finding { rule: "size", folder: file.folder(), item: file.path.clone(), message });
    }
    for function in file.functions().iter().filter(|function| function.code_lines > FUNCTION_LINES_MAX) {
        let source::Function { name, line, code_lines } = function;
        let message = format!(
            "{}:{line}: `{name}` has {code_lines} lines → at most {FUNCTION_LINES_MAX}: split the function",
            file.path
        );
        findings.push(Finding { rule: "size", folder: file.folder(), item: format!("fn {name}"), message });
    }
    findings
}

#[test]
fn private_words_of_the_project_do_not_occur() -> anyhow::Result<()> {
    let files = source::all()?;
    let checked = files.iter().filter(|file| !file.path.starts_with("xtask/src/tidy"));
    let findings: Vec<Finding> = checked.flat_map(words_in).collect();
    check(&["word", "file"], &findings)
}

#[test]
fn durations_and_sizes_stand_in_limits() -> anyhow::Result<()> {
    let files = source::all()?;
    let checked = files.iter().filter(|file| {
        file.is_rust() && !file.is_test() && !file.path.ends_with("/limits.rs") && file.path.contains("/src/")
    });
    check(&["limit"], &checked.flat_map(limits_in).collect::<Vec<_>>())
}

#[test]
fn files_and_functions_are_small() -> anyhow::Result<()> {
    let files = source::all()?;
    let rust: Vec<&SourceFile> = files.iter().filter(|file| file.is_rust()).collect();
    check(&["size"], &rust.iter().flat_map(|file| sizes_of(file)).collect::<Vec<_>>())?;
    let sources: Vec<&&SourceFile> = rust.iter().filter(|file| file.path.contains("/src/")).collect();
    let long = sources.iter().filter(|file| file.text.lines().count() > LONG_FILE_LINES).count();
    ensure!(long * 10 <= sources.len(), "{long} of {} files have over 400 lines", sources.len());
    Ok(())
}

#[test]
fn an_allowance_shrinks_and_never_grows() {
    let text = "# why\n3\tword\tdocs\tdoor\n2\tword\tdocs\thall\n1\tlimit\tdocs\tX\n";
    let key = |item: &str| ("word".to_owned(), "docs".to_owned(), item.to_owned());
    let found = BTreeMap::from([(key("door"), vec!["a"]), (key("desk"), vec!["b"])]);
    assert_eq!(shrunk(text, &["word"], &found), "# why\n1\tword\tdocs\tdoor\n1\tlimit\tdocs\tX\n");
}

#[test]
fn a_word_is_found_as_a_whole_only() {
    assert!(holds_word("the door, open", "door") && holds_word("(door)", "door"));
    assert!(!holds_word("indoors and door_s", "door"));
}

#[test]
fn a_limit_is_a_duration_or_a_number_with_a_unit() {
    assert_eq!(limit_of("    const WAIT: Duration = Duration::from_millis(5);"), Some("WAIT"));
    assert_eq!(limit_of("pub const TAIL_BYTES: u64 = 256 << 10;"), Some("TAIL_BYTES"));
    assert_eq!(limit_of("const CODE: i64 = -32600;"), None);
    assert!(
        holds_duration("sleep(Duration::from_millis(100))") && !holds_duration("Duration::from_millis(X)")
    );
}

#[test]
fn lines_of_a_function_are_counted_without_strings_and_comments() {
    let text = "fn a() {\n    let x = \"}\";\n    // }\n\n    b('{');\n}\n\ntrait T {\n    fn c(&self);\n}\n";
    let file = SourceFile { path: "a.rs".to_owned(), text: text.to_owned() };
    let lines = |name: &str, line, code_lines| source::Function { name: name.to_owned(), line, code_lines };
    assert_eq!(file.functions(), [lines("a", 1, 4), lines("c", 9, 0)]);
}
