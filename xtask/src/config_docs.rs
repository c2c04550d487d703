//! `cargo xtask config-docs`: the reference of the settings in docs/configuration.md, from the table in the code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use codexd_core::config::reference;

const BEGIN: &str = "<!-- settings: written by `cargo xtask config-docs` -->\n";
const END: &str = "<!-- end of the settings -->";

/// Writes the reference.
pub fn config_docs() -> anyhow::Result<ExitCode> {
    let path = path();
    fs::write(&path, updated(&fs::read_to_string(&path)?)?)?;
    println!("wrote {}", path.display());
    Ok(ExitCode::SUCCESS)
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md")
}

/// The page with the reference as it is now.
fn updated(page: &str) -> anyhow::Result<String> {
    let (before, rest) = page.split_once(BEGIN).context("docs/configuration.md lacks the begin mark")?;
    let (_, after) = rest.split_once(END).context("docs/configuration.md lacks the end mark")?;
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", reference()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_documented_settings_are_those_of_the_program() -> anyhow::Result<()> {
        let page = std::fs::read_to_string(super::path())?;
        anyhow::ensure!(super::updated(&page)? == page, "run `cargo xtask config-docs`");
        Ok(())
    }
}
