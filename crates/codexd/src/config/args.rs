//! The options that set values of the configuration, made from the table of settings: those of `codexd run` and `codexd config`.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use codexd_core::config::{FlagValues, Kind, SETTINGS, Setting};

const RUN_ONCE: &str = "run-once";

/// The options. Their values are checked with those of the other levels, by [`crate::context::Context::config_with`].
#[derive(Clone, Debug, Default)]
pub struct ConfigArgs {
    /// The options that were given.
    pub values: Vec<FlagValues>,
    /// Whether `codexd run` is to end after `smokeLifetimeMs`.
    pub run_once: bool,
}

impl FromArgMatches for ConfigArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = SETTINGS.iter().filter_map(|setting| {
            let values = matches.get_many::<String>(setting.flag?)?.cloned().collect();
            Some(FlagValues { setting, values })
        });
        Ok(Self { values: values.collect(), run_once: matches.get_flag(RUN_ONCE) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ConfigArgs {
    fn augment_args(command: Command) -> Command {
        let run_once = Arg::new(RUN_ONCE).long(RUN_ONCE).action(ArgAction::SetTrue);
        let run_once = run_once.help("Let `codexd run` end after the time of --smoke-lifetime-ms");
        let options = SETTINGS.iter().filter_map(option);
        command.args(options).arg(run_once)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn option(setting: &'static Setting) -> Option<Arg> {
    let flag = setting.flag?;
    let is_repeated = setting.kind == Kind::Words;
    let more = match setting.kind {
        Kind::Choice(words) => format!(" [{}]", words.join(", ")),
        Kind::Words => "; one argument, repeatable".to_owned(),
        _ => String::new(),
    };
    let help = setting.doc.trim_end_matches('.').replace('`', "") + &more;
    let action = if is_repeated { ArgAction::Append } else { ArgAction::Set };
    let option = Arg::new(flag).long(flag).value_name(value_name(setting.kind));
    Some(option.help(help).action(action).allow_hyphen_values(is_repeated))
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Path | Kind::Program => "PATH",
        Kind::Integer { .. } => "N",
        Kind::Bool => "BOOL",
        Kind::Choice(_) => "WORD",
        Kind::Words => "ARG",
        Kind::Text => "TEXT",
        Kind::Umask => "OCTAL",
        Kind::ReleaseSource => "SOURCE",
        Kind::WebSocketUrl => "URL",
    }
}
