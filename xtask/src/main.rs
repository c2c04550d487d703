//! Developer tasks: `cargo xtask test`, `cargo xtask package`, `cargo xtask schema`, `cargo xtask config-docs`, `cargo xtask bench lifecycle`, `cargo xtask bench gateway`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod config_docs;
mod deny;
mod needs;
mod package;
mod reaping;
mod release_build;
mod schema;
mod test;
#[cfg(test)]
mod tidy;

#[derive(Parser)]
#[command(about = "Developer tasks of codexd")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the tests need, check the style, run every test, and count.
    Test(test::Options),
    /// Hold the gateway's tables against the schema that the reference releases of Codex print.
    Schema(schema::Options),
    /// Write the reference of the settings into docs/configuration.md.
    ConfigDocs,
    /// Check licenses, banned crates and duplicate versions with cargo-deny, where it is installed.
    Deny,
    /// Build the .deb, the tarball with install.sh, and the npm package from one release build.
    Package(package::Options),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Test(options) => test::test(&options),
        Task::Schema(options) => schema::schema(&options),
        Task::ConfigDocs => config_docs::config_docs(),
        Task::Deny => deny::deny(),
        Task::Package(options) => package::package(&options),
        Task::Bench(bench) => bench::bench(&bench),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
