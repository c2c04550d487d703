//! The "Where is" table of ARCHITECTURE.md: its files exist, and events and repairs are made in the files that it names.

use std::fs;

use anyhow::{Context, ensure};

use super::source::{self, SourceFile};

/// Endings of file names, which look like the type of an event in a string.
const FILE_ENDINGS: [&str; 12] =
    ["json", "jsonl", "lock", "log", "pid", "sock", "toml", "token", "tmp", "md", "rs", "service"];

/// A row: what a reader looks for, and the paths below `crates/` that the row names.
struct Row {
    subject: String,
    paths: Vec<String>,
}

fn table() -> anyhow::Result<Vec<Row>> {
    let text = fs::read_to_string(source::root().join("ARCHITECTURE.md"))?;
    let (_, section) = text.split_once("\n## Where is\n").context("there is no heading `## Where is`")?;
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    Ok(rows.filter_map(row).collect())
}

fn row(line: &str) -> Option<Row> {
    let mut cells = line.trim_matches('|').split(" | ");
    let (subject, files) = (cells.next()?, cells.next()?);
    let quoted = files.split('`').skip(1).step_by(2);
    let paths = quoted.filter(|path| path.contains('/')).map(str::to_owned).collect();
    Some(Row { subject: subject.trim().to_owned(), paths })
}

/// Whether a row names the file or a folder that holds it.
fn names(rows: &[&Row], file: &SourceFile) -> bool {
    let path = file.path.trim_start_matches("crates/");
    rows.iter()
        .flat_map(|row| &row.paths)
        .any(|named| path == named || (named.ends_with('/') && path.starts_with(named)))
}

/// The strings of a line of code that look like the type of an event: `client.cut`.
fn event_types(line: &str) -> impl Iterator<Item = &str> {
    line.split('"').skip(1).step_by(2).filter(|text| {
        let is_word = |word: &str| {
            !word.is_empty() && word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
        };
        text.split_once('.')
            .is_some_and(|(subject, what)| is_word(subject) && is_word(what) && !FILE_ENDINGS.contains(&what))
    })
}

fn product_files() -> anyhow::Result<Vec<SourceFile>> {
    let mut files = source::all()?;
    files.retain(|file| {
        let of_a_program = ["codexd", "codexd-host", "codexd-gateway"];
        file.is_rust()
            && !file.is_test()
            && of_a_program.iter().any(|name| file.path.starts_with(&format!("crates/{name}/src/")))
    });
    Ok(files)
}

#[test]
fn every_file_of_the_table_exists() -> anyhow::Result<()> {
    let rows = table()?;
    ensure!(!rows.is_empty(), "the table is empty");
    let crates = source::root().join("crates");
    let paths = rows.iter().flat_map(|row| &row.paths).filter(|path| !path.ends_with("/x.rs"));
    let missing: Vec<&String> = paths.filter(|path| !crates.join(path).exists()).collect();
    ensure!(missing.is_empty(), "ARCHITECTURE.md, \"Where is\": write the new paths of {missing:?}");
    Ok(())
}

#[test]
fn every_event_is_made_in_a_file_of_the_table() -> anyhow::Result<()> {
    let rows = table()?;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.subject.starts_with("an event of")).collect();
    ensure!(!rows.is_empty(), "ARCHITECTURE.md, \"Where is\": a row `an event of …` is missing");
    let mut problems = Vec::new();
    for file in product_files()?.iter().filter(|file| !names(&rows, file)) {
        for (number, line) in file.lines_outside_tests() {
            let types = event_types(line).filter(|_| !line.trim_start().starts_with("//"));
            problems.extend(types.map(|kind| format!("{}:{number}: `{kind}`", file.path)));
        }
    }
    let advice = "name their files in an event row of ARCHITECTURE.md, \"Where is\"";
    ensure!(problems.is_empty(), "{advice}:\n{}", problems.join("\n"));
    Ok(())
}

#[test]
fn every_repair_is_made_in_a_file_of_the_table() -> anyhow::Result<()> {
    let rows = table()?;
    let rows: Vec<&Row> = rows.iter().filter(|row| row.subject.starts_with("a repair")).collect();
    ensure!(!rows.is_empty(), "ARCHITECTURE.md, \"Where is\": a row `a repair …` is missing");
    let mut problems = Vec::new();
    for file in product_files()?.iter().filter(|file| !names(&rows, file)) {
        let lines = file.lines_outside_tests().filter(|(_, line)| line.contains("repaired("));
        problems.extend(lines.map(|(number, line)| format!("{}:{number}: {}", file.path, line.trim())));
    }
    let advice = "name their files in the repair row of ARCHITECTURE.md, \"Where is\"";
    ensure!(problems.is_empty(), "{advice}:\n{}", problems.join("\n"));
    Ok(())
}
