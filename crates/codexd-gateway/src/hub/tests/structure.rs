//! The structure of the hub's source, which ARCHITECTURE.md describes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What [`settle`](crate::hub::Hub::settle) does.
const STEPS: [&str; 12] = [
    "attach_demanded",
    "attach_next",
    "close_drained",
    "ensure_handover",
    "evaluate_thread",
    "load_goals",
    "migrate_next",
    "persist_goals",
    "recover_orphaned",
    "report_recovery_if_complete",
    "retire_drained_servers",
    "schedule",
];

/// The source of each module of the hub without comments and tests, by its path below `crate::hub`.
fn sources() -> BTreeMap<String, String> {
    fn collect(folder: &Path, path: &str, sources: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).expect("a folder of the source") {
            let entry = entry.expect("an entry").path();
            let name = entry.file_stem().expect("a name").to_string_lossy().into_owned();
            let below = if path.is_empty() { name.clone() } else { format!("{path}::{name}") };
            if entry.is_dir() {
                if name != "tests" {
                    collect(&entry, &below, sources);
                }
                continue;
            }
            let text = std::fs::read_to_string(&entry).expect("a file of the source");
            let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            sources.insert(if name == "mod" { path.to_owned() } else { below }, code.join("\n"));
        }
    }
    let mut sources = BTreeMap::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hub"), "", &mut sources);
    sources
}

/// The modules of the hub that a module names.
fn named_in(module: &str, source: &str, modules: &BTreeSet<&str>) -> BTreeSet<String> {
    let children =
        modules.iter().filter_map(|other| Some((*other, other.strip_prefix(module)?.strip_prefix("::")?)));
    let is_named =
        |name: &str| source.contains(&format!("use {name}::")) || source.contains(&format!(" {name}::"));
    let mut named: BTreeSet<String> =
        children.filter(|(_, name)| is_named(name)).map(|(child, _)| child.to_owned()).collect();
    for after in source.split("crate::hub::").skip(1) {
        let end = after.find(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
        let (path, rest) = after.split_at(end.unwrap_or(after.len()));
        let list = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let items = list.map_or(vec![""], |list| list.split(',').map(str::trim).collect());
        for item in items {
            let full = format!("{path}{item}");
            let mut module = full.as_str();
            while !modules.contains(module)
                && let Some((parent, _)) = module.rsplit_once("::")
            {
                module = parent;
            }
            named.extend(modules.contains(module).then(|| module.to_owned()));
        }
    }
    named
}

#[test]
fn no_import_between_files_points_back_up() {
    let sources = sources();
    let modules: BTreeSet<&str> =
        sources.keys().map(String::as_str).filter(|name| !name.is_empty()).collect();
    assert!(modules.contains("threads::thread") && modules.contains("migration"), "{modules:?}");
    let mut imports: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for module in &modules {
        let mut named = named_in(module, &sources[*module], &modules);
        named.remove(*module);
        imports.insert(module, named);
    }
    // What imports nothing that is left lies below all others.
    while let Some(lowest) = imports.iter().find(|(_, named)| named.is_empty()).map(|(module, _)| *module) {
        imports.remove(lowest);
        imports.values_mut().for_each(|named| _ = named.remove(lowest));
    }
    assert!(imports.is_empty(), "these files import each other in a circle, or from one: {imports:#?}");
}

#[test]
fn only_settle_does_what_follows_from_an_event() {
    for (module, source) in sources().iter().filter(|(module, _)| *module != "settle") {
        for step in STEPS {
            assert!(!source.contains(&format!("self.{step}(")), "{module} calls {step}");
        }
    }
}
