//! Runs the embedded app-server: `embedded [--remote-control] [--listen URL]`, with `CODEX_HOME` in the environment.

use std::process::ExitCode;

use codexd_embedded::{Listen, Options, run};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut listen, mut remote_control) = ("unix://".to_owned(), false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--remote-control" => remote_control = true,
            "--listen" => listen = arguments.next().unwrap_or_default(),
            other => {
                eprintln!("error: unexpected argument '{other}'");
                return ExitCode::from(2);
            }
        }
    }
    let listen: Listen = match listen.parse() {
        Ok(listen) => listen,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let Some(home) = std::env::var_os("CODEX_HOME") else {
        eprintln!("error: CODEX_HOME is not set");
        return ExitCode::from(2);
    };
    match run(Options { remote_control, ..Options::new(home, listen) }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}
