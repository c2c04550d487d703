//! A Codex with one thing wrong with it.
//!
//! A fake is a small shell script at the place of a managed Codex. Where it has to speak the protocol it becomes the
//! app-server that is built into codexd, with the arguments that it got itself. Its arguments name an app-server in every
//! case, as those of a real one would, but for `--version` and `features list`, by which codexd proves it and its configuration.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::{Home, Layout, codexd};

/// The version that a fake gives.
pub const FAKE_VERSION: &str = "9.9.9";

/// The file of the home that lets [`Fake::ServesWhenTold`] serve.
pub const SERVE: &str = "serve";

/// What is wrong with it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fake {
    /// Nothing: it serves as it should.
    Healthy,
    /// It is a script that serves by another program, and waits for the end of that.
    Wrapped,
    /// It says this on its standard error and ends with this code.
    ExitsAtOnce(&'static str, i32),
    /// It lives, but never listens.
    NeverListens,
    /// It listens and accepts, but never answers. Needs perl.
    Unresponsive,
    /// It serves, and SIGTERM does not end it; its whole process group survives that.
    IgnoresSigterm,
    /// It is [`Fake::Wrapped`] by a script that ignores SIGTERM and SIGHUP, and goes on after its server.
    WrappedForEver,
    /// It is a script that starts its server in the background, and ends as soon as the home has the file [`SERVE`].
    WrapperEnds,
    /// It serves, but `--version` never ends.
    VersionHangs,
    /// It serves, and computes for this many seconds before it tells its version.
    VersionComputes(u32),
    /// It is a file without the permission to execute it.
    NotExecutable,
    /// It is an executable file of no known format.
    NotAProgram,
    /// It serves after this many milliseconds.
    SlowStart(u32),
    /// It serves as soon as the home has the file [`SERVE`].
    ServesWhenTold,
    /// It serves, and starts a process that ignores SIGTERM.
    LeavesStubbornGrandchild,
    /// It serves after it has computed for this many seconds.
    ComputesAtStart(u32),
    /// It serves, and starts two processes that outlive it: one in its group, one in a session of its own.
    LeavesGrandchildren,
}

impl Fake {
    /// Puts it where the managed Codex belongs, replacing what is there.
    ///
    /// # Errors
    /// The file's; or codexd, which it needs, was not built.
    pub fn install(&self, home: &Home, layout: Layout) -> anyhow::Result<PathBuf> {
        let place = home.managed_codex(layout);
        let folder = place.parent().context("the managed Codex lies in a folder")?;
        fs::create_dir_all(folder)?;
        let new = folder.join(".codex-new");
        fs::write(&new, self.text()?)?;
        let mode = if *self == Fake::NotExecutable { 0o644 } else { 0o755 };
        fs::set_permissions(&new, Permissions::from_mode(mode))?;
        fs::rename(&new, &place).with_context(|| format!("failed to make {}", place.display()))?;
        Ok(place)
    }

    pub(crate) fn text(&self) -> anyhow::Result<String> {
        if *self == Fake::NotAProgram {
            return Ok("\u{7f}this is not a program\n".to_owned());
        }
        let version = match self {
            Fake::VersionHangs => "exec sleep 1000000".to_owned(),
            Fake::VersionComputes(seconds) => {
                format!("{}\necho 'codex-cli {FAKE_VERSION}'; exit 0", compute(*seconds))
            }
            _ => format!("echo 'codex-cli {FAKE_VERSION}'; exit 0"),
        };
        let body = self.body()?;
        Ok(format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then {version}; fi\nif [ \"$1\" = features ]; then exit 0; fi\nshift\n{body}\n"
        ))
    }

    fn body(&self) -> anyhow::Result<String> {
        let serve = || anyhow::Ok(format!("{} embedded-app-server \"$@\"", quoted(&codexd::binary()?)));
        Ok(match self {
            Fake::ExitsAtOnce(message, code) => {
                format!("echo {} >&2\nexit {code}", quoted(Path::new(message)))
            }
            // Opening a pipe that no other process opens blocks the shell itself, under its own arguments, and starts no child.
            Fake::NeverListens => {
                "never=$(mktemp -u \"$CODEX_HOME/never-XXXXXX\")\nmkfifo \"$never\"\nread -r _ < \"$never\""
                    .to_owned()
            }
            Fake::Unresponsive => UNRESPONSIVE.to_owned(),
            // The mask outlives exec.
            Fake::IgnoresSigterm => format!("exec env --block-signal=TERM --block-signal=HUP {}", serve()?),
            Fake::WrappedForEver => {
                format!("trap '' TERM HUP\nenv --default-signal=TERM,HUP {}\nsleep 1000000", serve()?)
            }
            Fake::WrapperEnds => {
                format!("{} &\nuntil [ -e \"$CODEX_HOME/{SERVE}\" ]; do sleep 0.01; done\nexit 0", serve()?)
            }
            Fake::SlowStart(ms) => {
                format!("sleep {}.{:03}\nexec {}", ms / 1000, ms % 1000, serve()?)
            }
            Fake::ServesWhenTold => {
                format!("until [ -e \"$CODEX_HOME/{SERVE}\" ]; do sleep 0.01; done\nexec {}", serve()?)
            }
            Fake::ComputesAtStart(seconds) => format!("{}\nexec {}", compute(*seconds), serve()?),
            Fake::LeavesStubbornGrandchild => {
                format!("(trap '' TERM; while :; do sleep 1000000; done) &\nexec {}", serve()?)
            }
            Fake::LeavesGrandchildren => {
                format!("sleep 1000000 &\nsetsid sleep 1000000 &\nexec {}", serve()?)
            }
            Fake::Wrapped => format!("{}\nexit", serve()?),
            Fake::Healthy | Fake::VersionHangs | Fake::VersionComputes(_) => format!("exec {}", serve()?),
            Fake::NotExecutable | Fake::NotAProgram => String::new(),
        })
    }
}

fn compute(seconds: u32) -> String {
    format!(
        "up() {{ read -r up _ < /proc/uptime; up=${{up%.*}}; }}\nup\nend=$((up + {seconds}))\nwhile [ $up -le $end ]; do up; done"
    )
}

/// Finds the socket in `--listen unix://PATH` and listens there without ever accepting.
const UNRESPONSIVE: &str = r#"listen=
while [ $# -gt 0 ]; do
  if [ "$1" = --listen ]; then listen=$2; shift; fi
  shift
done
socket=${listen#unix://}
: "${socket:=$CODEX_HOME/app-server-control/app-server-control.sock}"
mkdir -p "${socket%/*}"
rm -f "$socket"
exec perl -MIO::Socket::UNIX -e '
  my $listener = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 64) or die "$!";
  my @open;
  while (my $client = $listener->accept) { push @open, $client }
' "$socket" app-server"#;

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{FAKE_VERSION, Fake};
    use crate::{Home, Layout, run, until};

    #[test]
    fn a_fake_that_exits_says_why() {
        let home = Home::new().expect("a home");
        let fake = Fake::ExitsAtOnce("it's broken", 7).install(&home, Layout::Standalone).expect("a fake");
        let mut version = home.command(&fake);
        version.arg("--version");
        let version = run::run(version, Duration::from_secs(10)).expect("it runs");
        assert_eq!(version.stdout, format!("codex-cli {FAKE_VERSION}\n"));
        let mut serve = home.command(&fake);
        serve.args(["app-server", "--listen", "unix://"]);
        let served = run::run(serve, Duration::from_secs(10)).expect("it runs");
        assert_eq!((served.code(), served.stderr.as_str()), (Some(7), "it's broken\n"));
    }

    #[test]
    fn an_unresponsive_fake_accepts_and_is_silent() {
        let home = Home::new().expect("a home");
        let fake = Fake::Unresponsive.install(&home, Layout::Standalone).expect("a fake");
        let mut serve = home.command(&fake);
        serve.args(["app-server", "--remote-control", "--listen", "unix://"]);
        let _running = run::Running::spawn(serve).expect("it runs");
        let connected = until(Duration::from_secs(10), "the listener", || {
            codexd_protocol::unix::connect(&home.control_socket()).ok()
        });
        connected.expect("it accepts");
    }
}
