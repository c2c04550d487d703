//! `codexd service print`: prints the files of a service manager for this home, and installs nothing.

use std::io::{self, Write};
use std::process::ExitCode;

use codexd_core::contract::Failure;
use serde::Serialize;

use crate::cli::{ServiceKind, ServicePrintArgs};
use crate::context::Context;
use crate::output::{self, Answer, Mode};
use crate::service_settings;
use crate::style::Text;

/// The answer in JSON.
#[derive(Debug, Serialize)]
struct Reply {
    files: Vec<File>,
}

/// One file.
#[derive(Debug, Serialize)]
struct File {
    /// The name below the folder of the service manager.
    name: String,
    text: String,
}

impl Answer for Reply {
    fn text(&self) -> Text {
        Text::from("")
    }
}

/// Runs the command. Without `--json` it prints the files as they are, also to a pipe.
pub fn run(context: &Context, args: &ServicePrintArgs) -> ExitCode {
    let files = match files(context, args.backend) {
        Ok(files) => files,
        Err(failure) => {
            let mode = Mode::of_options(context.global.json, context.global.text);
            return output::finish::<Reply>(mode, Err(failure));
        }
    };
    if context.global.json {
        return output::finish(Mode::Json, Ok(Reply { files }));
    }
    let texts: Vec<String> = match files.as_slice() {
        [file] => vec![file.text.clone()],
        files => files.iter().map(|file| format!("# {}\n{}", file.name, file.text)).collect(),
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(texts.join("\n").as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::stdout_closed(&error),
    }
}

fn files(context: &Context, kind: ServiceKind) -> Result<Vec<File>, Failure> {
    let config = context.config_as_found().usable()?.config;
    match kind {
        ServiceKind::Systemd => {
            let units = service_settings::units(context, &config)?.render();
            let units = units.map_err(|error| service_settings::unrenderable(&error))?;
            Ok(units.into_iter().map(|unit| File { name: unit.name, text: unit.text }).collect())
        }
        ServiceKind::Launchd => {
            let agent = service_settings::agent(context, &config)?;
            let text = agent.render().map_err(|error| service_settings::unrenderable(&error))?;
            Ok(vec![File { name: format!("{}.plist", agent.label()), text }])
        }
    }
}
