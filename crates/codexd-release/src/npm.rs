//! The npm package `@openai/codex`: a Node script that starts the native binary of a platform package.
//!
//! Observed layouts: 0.131.0 has the binary at `vendor/<target>/codex/codex` with tools in `path`, 0.169.0 at
//! `vendor/<target>/bin/codex` with tools in `codex-path`; the platform package lies inside the package (npm) or
//! beside it (hoisted, pnpm).

use std::path::{Path, PathBuf};

use codexd_core::contract::CodexSource;

use crate::found_codex::FoundCodex;

/// The platform package's name behind `@openai/`.
pub(crate) fn platform_package() -> Option<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some("codex-linux-x64"),
        ("linux", "aarch64") => Some("codex-linux-arm64"),
        ("macos", "x86_64") => Some("codex-darwin-x64"),
        ("macos", "aarch64") => Some("codex-darwin-arm64"),
        _ => None,
    }
}

/// The target that the platform package was built for.
pub(crate) fn target() -> Option<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some("x86_64-unknown-linux-musl"),
        ("linux", "aarch64") => Some("aarch64-unknown-linux-musl"),
        ("macos", "x86_64") => Some("x86_64-apple-darwin"),
        ("macos", "aarch64") => Some("aarch64-apple-darwin"),
        _ => None,
    }
}

/// The package that a script belongs to, if it is Codex's wrapper.
pub(crate) fn package_root(script: &Path) -> Option<PathBuf> {
    let script = script.canonicalize().ok()?;
    let root = script.parent()?.parent()?;
    let package = std::fs::read(root.join("package.json")).ok()?;
    let package: serde_json::Value = serde_json::from_slice(&package).ok()?;
    (package.get("name")?.as_str()? == "@openai/codex").then(|| root.to_owned())
}

/// The native binary of a package; `found_at` is the path of the wrapper.
pub(crate) fn native(found_at: &Path, source: CodexSource, package: &Path) -> Option<FoundCodex> {
    let (name, target) = (platform_package()?, target()?);
    let vendors = [
        Some(package.join("node_modules/@openai").join(name).join("vendor")),
        package.parent().map(|scope| scope.join(name).join("vendor")),
        Some(package.join("vendor")),
    ];
    let executable = vendors
        .into_iter()
        .flatten()
        .flat_map(|vendor| ["bin/codex", "codex/codex"].map(|inside| vendor.join(target).join(inside)))
        .find(|path| path.is_file())?;
    let canonical = executable.canonicalize().ok()?;
    Some(FoundCodex {
        path: found_at.to_owned(),
        source,
        path_folders: path_folder(&canonical).into_iter().collect(),
        variables: vec![
            ("CODEX_MANAGED_BY_NPM".into(), "1".into()),
            ("CODEX_MANAGED_PACKAGE_ROOT".into(), package.as_os_str().to_owned()),
        ],
        executable,
    })
}

/// The folder of the tools that a native binary comes with, such as a search tool.
pub(crate) fn path_folder(executable: &Path) -> Option<PathBuf> {
    let release = executable.parent()?.parent()?;
    ["codex-path", "path"].map(|name| release.join(name)).into_iter().find(|folder| folder.is_dir())
}
