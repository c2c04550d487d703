//! `codexd.toml`: reading it, with the line of each key, and editing it without touching anything else in it.

use std::path::Path;

use serde_json::Value as Json;
use toml_edit::{Document, DocumentMut, Item, Key, Table, TableLike};

use super::origin::{Origin, Problem};
use super::table::{self, Setting, SettingFile};
use super::value::Value;
use crate::foreign_text::quote;

/// A value that the file sets.
#[derive(Clone, Debug, PartialEq)]
pub struct FileValue {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value.
    pub value: Value,
    /// The line, counted from 1.
    pub line: usize,
}

/// Reads the contents of the file at `path`: the values that are valid, and what is not.
pub fn parse(path: &Path, contents: &[u8]) -> (Vec<FileValue>, Vec<Problem>) {
    let unreadable = |at: usize, what: String| {
        let origin = Origin::CodexdToml(path.to_owned(), line_of(contents, at));
        (Vec::new(), vec![Problem { origin, key: String::new(), what, nearest: None }])
    };
    let text = match std::str::from_utf8(contents) {
        Ok(text) => text,
        Err(error) => return unreadable(error.valid_up_to(), "not UTF-8 text".to_owned()),
    };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            return unreadable(at, format!("not TOML: {}", quote(error.message())));
        }
    };
    let mut reader = Reader { path, text, values: Vec::new(), problems: Vec::new() };
    reader.table("", document.as_table());
    (reader.values, reader.problems)
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    values: Vec<FileValue>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
            let span = table.key(name).and_then(Key::span).or_else(|| item.span());
            let line = span.map_or(1, |span| line_of(self.text.as_bytes(), span.start));
            let is_table = table::SETTINGS.iter().any(|setting| is_inside(setting.key, &key));
            match (item.as_table_like(), table::find(&key)) {
                (Some(inner), _) if is_table => self.table(&key, inner),
                (_, Some(setting)) => self.value(setting, item, line),
                _ => self.unknown(&key, is_table, line),
            }
        }
    }

    fn value(&mut self, setting: &'static Setting, item: &Item, line: usize) {
        if setting.file == SettingFile::SettingsJson {
            let what =
                format!("`{}` belongs into settings.json, which upstream's daemon shares", setting.key);
            return self.problem(setting.key, what, None, line);
        }
        match setting.kind.from_json(&to_json(item)) {
            Ok(value) => self.values.push(FileValue { setting, value, line }),
            Err(bad) => {
                let what = format!("`{}` is {}, expected {}", setting.key, bad.found, bad.expected);
                self.problem(setting.key, what, bad.nearest, line);
            }
        }
    }

    fn unknown(&mut self, key: &str, is_table: bool, line: usize) {
        let what = if is_table {
            format!("`{}` is a table, not a value", quote(key))
        } else {
            format!("unknown key `{}`", quote(key))
        };
        self.problem(key, what, table::nearest_key(key).map(str::to_owned), line);
    }

    fn problem(&mut self, key: &str, what: String, nearest: Option<String>, line: usize) {
        let origin = Origin::CodexdToml(self.path.to_owned(), line);
        self.problems.push(Problem { origin, key: key.to_owned(), what, nearest });
    }
}

/// Whether `key` stands in the table `table`.
fn is_inside(key: &str, table: &str) -> bool {
    key.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

fn line_of(text: &[u8], at: usize) -> usize {
    text[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1
}

/// What TOML has and JSON lacks (dates, floats that are no numbers) becomes null, which no setting accepts.
fn to_json(item: &Item) -> Json {
    match item.as_value() {
        Some(toml_edit::Value::String(text)) => text.value().as_str().into(),
        Some(toml_edit::Value::Integer(number)) => (*number.value()).into(),
        Some(toml_edit::Value::Float(number)) => (*number.value()).into(),
        Some(toml_edit::Value::Boolean(value)) => (*value.value()).into(),
        Some(toml_edit::Value::Array(values)) => {
            values.iter().map(|value| to_json(&Item::Value(value.clone()))).collect()
        }
        Some(toml_edit::Value::InlineTable(_)) => Json::Object(serde_json::Map::new()),
        Some(toml_edit::Value::Datetime(at)) => at.value().to_string().into(),
        None => Json::Object(serde_json::Map::new()),
    }
}

fn to_toml(value: &Value) -> toml_edit::Value {
    match value {
        Value::Bool(value) => (*value).into(),
        // Every range ends far below.
        Value::Integer(value) => i64::try_from(*value).unwrap_or(i64::MAX).into(),
        Value::Text(value) => value.as_str().into(),
        Value::Words(words) => words.iter().collect::<toml_edit::Array>().into(),
    }
}

/// The text with the setting at this value. Comments and everything else stay as they are.
///
/// # Errors
/// Why the text cannot be edited.
pub fn set(text: &str, setting: &Setting, value: &Value) -> Result<String, String> {
    let mut document = parse_to_edit(text)?;
    let (table, name) = enter(&mut document, setting.key)?;
    let mut new = to_toml(value);
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            // The comment behind a value belongs to its decoration.
            *new.decor_mut() = old.decor().clone();
            *old = new;
        }
        Some(Item::None) | None => drop(table.insert(name, Item::Value(new))),
        Some(_) => return Err(format!("`{}` is a table in the file; remove it first", setting.key)),
    }
    Ok(document.to_string())
}

/// The text without the key; `None` if the key is not there. The comments above the key stay.
///
/// # Errors
/// Why the text cannot be edited.
pub fn unset(text: &str, key: &str) -> Result<Option<String>, String> {
    if let Some(cut) = without_lines(text, key) {
        return Ok(Some(cut));
    }
    let mut document = parse_to_edit(text)?;
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut parts = key.split('.').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return Ok(table.remove(part).map(|_| document.to_string()));
        }
        match table.get_mut(part).and_then(Item::as_table_like_mut) {
            Some(inner) => table = inner,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// The text without the lines of a key and its value, if they hold nothing else.
fn without_lines(text: &str, key: &str) -> Option<String> {
    let document = Document::parse(text).ok()?;
    let mut table: &dyn TableLike = document.as_table();
    let (tables, name) = key.rsplit_once('.').map_or((None, key), |(tables, name)| (Some(tables), name));
    for part in tables.into_iter().flat_map(|tables| tables.split('.')) {
        let item = table.get(part)?;
        if item.is_inline_table() {
            return None;
        }
        table = item.as_table_like()?;
    }
    let item = table.get(name)?;
    let (from, to) = (table.key(name)?.span()?.start, item.as_value()?.span()?.end);
    let from = text[..from].rfind('\n').map_or(0, |at| at + 1);
    let to = text[to..].find('\n').map_or(text.len(), |at| to + at + 1);
    let cut = format!("{}{}", &text[..from], &text[to..]);
    Document::parse(cut.as_str()).is_ok().then_some(cut)
}

fn parse_to_edit(text: &str) -> Result<DocumentMut, String> {
    text.parse::<DocumentMut>().map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text.as_bytes(), span.start));
        format!("line {line} is not TOML: {}", quote(error.message()))
    })
}

/// The table that holds a key, made if it is missing, and the last part of the key.
fn enter<'a, 'k>(
    document: &'a mut DocumentMut,
    key: &'k str,
) -> Result<(&'a mut dyn TableLike, &'k str), String> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    let mut parts = key.split('.');
    let name = parts.next_back().unwrap_or(key);
    for part in parts {
        let inner = table.entry(part).or_insert_with(|| Item::Table(Table::new()));
        table = inner.as_table_like_mut().ok_or_else(|| format!("`{part}` is not a table in the file"))?;
    }
    Ok((table, name))
}

#[cfg(test)]
mod tests {
    use super::{parse, set, unset};
    use crate::config::table::{SETTINGS, SettingFile, find};
    use crate::config::value::Value;
    use std::path::Path;

    const COMMENTED: &str = "# ours\n\numask = \"027\" # for the group\n\n# the gateway\n[gateway]\n# off\nenabled = false # for now\n# end\n";

    fn problems(text: &str) -> Vec<String> {
        parse(Path::new("/h/codexd.toml"), text.as_bytes()).1.iter().map(ToString::to_string).collect()
    }

    fn value(text: &str, key: &str) -> Option<Value> {
        let (values, problems) = parse(Path::new("/h/codexd.toml"), text.as_bytes());
        assert!(problems.is_empty(), "{text}: {problems:?}");
        values.into_iter().find(|value| value.setting.key == key).map(|value| value.value)
    }

    #[test]
    fn what_is_not_valid_is_told_with_its_line_and_the_nearest_valid_one() {
        for (text, message) in [
            ("\numsk = \"022\"", "/h/codexd.toml:2: unknown key `umsk`; the nearest valid one is `umask`"),
            (
                "[gateway]\n\nlisen = 1",
                "/h/codexd.toml:3: unknown key `gateway.lisen`; the nearest valid one is `gateway.listen`",
            ),
            (
                "gateway = false",
                "/h/codexd.toml:1: `gateway` is a table, not a value; the nearest valid one is `gateway.enabled`",
            ),
            (
                "[umask]\na = 1",
                "/h/codexd.toml:1: `umask` is {}, expected octal digits from \"000\" to \"077\"",
            ),
            (
                "server.mode = \"app\"",
                "/h/codexd.toml:1: `server.mode` is \"app\", expected \"app-server\" or \"exec\"; the nearest valid one is `app-server`",
            ),
            (
                "eventCacheSize = 0",
                "/h/codexd.toml:1: `eventCacheSize` is 0, expected a whole number from 1 to 100000; the nearest valid one is `1`",
            ),
            (
                "stopGraceSeconds = 86401",
                "/h/codexd.toml:1: `stopGraceSeconds` is 86401, expected a whole number from 0 to 86400; the nearest valid one is `86400`",
            ),
            (
                "eventCacheSize = 1.0",
                "/h/codexd.toml:1: `eventCacheSize` is 1.0, expected a whole number from 1 to 100000",
            ),
            (
                "eventCacheSize = \"5\"",
                "/h/codexd.toml:1: `eventCacheSize` is \"5\", expected a whole number from 1 to 100000; the nearest valid one is `5`",
            ),
            (
                "workingDirectory = \"work\"",
                "/h/codexd.toml:1: `workingDirectory` is \"work\", expected an absolute path",
            ),
            (
                "remoteControlEnabled = true",
                "/h/codexd.toml:1: `remoteControlEnabled` belongs into settings.json, which upstream's daemon shares",
            ),
        ] {
            assert_eq!(problems(text), [message], "{text}");
        }
        let [syntax] = &problems("umask = \"022\"\ny y")[..] else { panic!("one problem") };
        assert!(syntax.starts_with("/h/codexd.toml:2: not TOML: "), "{syntax}");
        assert_eq!(problems("umask = \"022\"\numask = \"027\"").len(), 1, "twice");
        let (_, binary) = parse(Path::new("/h/codexd.toml"), b"a\n\xff");
        assert_eq!(binary[0].to_string(), "/h/codexd.toml:2: not UTF-8 text");
    }

    #[test]
    fn a_problem_costs_no_other_value() {
        let (values, problems) = parse(Path::new("/h"), b"umask = 9\neventCacheSize = 7\n");
        assert_eq!((values.len(), problems.len(), values[0].line), (1, 1, 2));
    }

    #[test]
    fn every_form_of_a_table_is_read() {
        for text in ["gateway.enabled = false", "gateway = {enabled = false}", "[gateway]\nenabled = false"] {
            assert_eq!(value(text, "gateway.enabled"), Some(Value::Bool(false)), "{text}");
        }
    }

    #[test]
    fn setting_a_value_keeps_comments_and_order() {
        let umask = find("umask").expect("a setting");
        let changed = set(COMMENTED, umask, &Value::Text("022".into())).expect("edited");
        assert_eq!(changed, COMMENTED.replace("027", "022"));
        let listen = find("gateway.listen").expect("a setting");
        let changed = set(COMMENTED, listen, &Value::Text("ws://127.0.0.1:1".into())).expect("edited");
        let added = "enabled = false # for now\nlisten = \"ws://127.0.0.1:1\"\n";
        assert_eq!(changed, COMMENTED.replace("enabled = false # for now\n", added));
    }

    #[test]
    fn every_setting_of_the_file_is_read_as_it_was_set_and_is_gone_when_unset() {
        for setting in SETTINGS.iter().filter(|setting| setting.file == SettingFile::CodexdToml) {
            for sample in crate::config::samples(setting) {
                let sample = setting.kind.from_text(&sample).expect("valid");
                for before in ["", COMMENTED, "gateway = {enabled = true}\n", "gateway.enabled = true\n"] {
                    let text = set(before, setting, &sample).expect("edited");
                    assert_eq!(value(&text, setting.key), Some(sample.clone()), "{text}");
                    let text = unset(&text, setting.key).expect("edited").expect("it was there");
                    assert_eq!(value(&text, setting.key), None, "{text}");
                    for comment in before.split('\n').filter(|line| line.starts_with('#')) {
                        assert!(text.contains(comment), "{comment} is lost in {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn unsetting_removes_one_line_and_tells_what_is_not_there() {
        assert_eq!(unset(COMMENTED, "gateway.listen"), Ok(None));
        let cut = unset(COMMENTED, "umask").expect("edited").expect("it was there");
        assert_eq!(cut, COMMENTED.replace("umask = \"027\" # for the group\n", ""));
        // Also one that codexd does not know.
        assert_eq!(unset("x = [\n1,\n]\ny = 1\n", "x"), Ok(Some("y = 1\n".to_owned())));
        assert!(set("x = ", find("umask").expect("a setting"), &Value::Text("022".into())).is_err());
    }
}
