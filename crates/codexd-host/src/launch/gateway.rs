//! The gateway as a process: `codexd gateway --codex-home PATH [--listen ADDRESS] [--subagent-approvals viewers|all]`.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use codexd_core::config::{Gateway, SubagentApprovals};
use codexd_core::identity::{Pid, Process};
use codexd_core::launch_spec::LaunchSpec;
use codexd_core::os_text::OsText;

use super::{Started, environment, inherit_socket};
use crate::home::Home;
use crate::process_table::ProcessTable;
use crate::{ownership, pid_namespace, process};

/// The command and its first option, as they stand on the command line. The path of the home follows.
const ARGUMENTS: [&str; 2] = ["gateway", "--codex-home"];
/// The option for the TCP address to listen on.
const LISTEN: &str = "--listen";
/// The option for the clients that get the approval requests of sub-agents.
const SUBAGENT_APPROVALS: &str = "--subagent-approvals";

/// Settings of glibc's allocator: large blocks and freed blocks at the end of the heap go back to the kernel at once. By default
/// the allocator keeps more memory after the first large message.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "1048576"), ("MALLOC_ARENA_MAX", "1")];

/// What the command line of a gateway says.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The home.
    pub home: Home,
    /// The TCP address to listen on besides the control socket.
    pub listen: Option<SocketAddr>,
    /// The clients that get the approval requests of sub-agents.
    pub subagent_approvals: SubagentApprovals,
}

impl Arguments {
    /// Parses a command line, with the program name. `None` if it is not exactly that of a gateway: only codexd writes it.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let arguments: Vec<OsString> = arguments.into_iter().skip(1).collect();
        let ([command, option, home], rest) = arguments.split_first_chunk()?;
        if [command, option] != ARGUMENTS {
            return None;
        }
        let home = Home::new(PathBuf::from(home));
        let mut parsed = Self { home, listen: None, subagent_approvals: SubagentApprovals::default() };
        for option in rest.chunks(2) {
            let [option, value] = option else { return None };
            let value = value.to_str()?;
            match option.to_str()? {
                LISTEN => parsed.listen = Some(value.parse().ok()?),
                SUBAGENT_APPROVALS => parsed.subagent_approvals = SubagentApprovals::from_word(value)?,
                _ => return None,
            }
        }
        Some(parsed)
    }

    fn to_command_line(&self) -> Vec<OsText> {
        let mut line: Vec<OsText> = ARGUMENTS.iter().copied().map(OsText::from).collect();
        line.push(OsText::from(self.home.root()));
        if let Some(listen) = self.listen {
            line.extend([OsText::from(LISTEN), OsText::from(listen.to_string())]);
        }
        if self.subagent_approvals != SubagentApprovals::default() {
            line.extend([OsText::from(SUBAGENT_APPROVALS), OsText::from(self.subagent_approvals.as_str())]);
        }
        line
    }
}

/// The launch spec of the gateway; `None` if the settings disable it. `codexd` is the binary, `variable` looks up a variable of the
/// caller.
pub fn spec(
    home: &Home,
    settings: Gateway,
    codexd: &Path,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Option<LaunchSpec> {
    if !settings.is_on() {
        return None;
    }
    let arguments = Arguments {
        home: home.clone(),
        listen: settings.listen(),
        subagent_approvals: settings.subagent_approvals(),
    };
    let mut env: Vec<(OsText, OsText)> =
        environment::for_service(variable).map(|(name, value)| (OsText::from(name), OsText(value))).collect();
    env.push((OsText::from("CODEX_HOME"), OsText::from(home.root())));
    env.extend(ALLOCATOR.map(|(name, value)| (OsText::from(name), OsText::from(value))));
    Some(LaunchSpec {
        executable: codexd.to_owned(),
        args: arguments.to_command_line(),
        env,
        cwd: PathBuf::from("/"),
        embedded: false,
        socket: None,
        named: None,
        version: None,
        umask: None,
        memory_ceiling_mib: None,
    })
}

/// Starts the gateway. It inherits `control_socket`, which listens.
///
/// # Errors
/// It cannot be started.
pub fn spawn(home: &Home, spec: &LaunchSpec, control_socket: BorrowedFd<'_>) -> io::Result<Started> {
    home.create_state()?;
    let log = home.gateway_log();
    let (command, stderr_from) = super::command(home, spec, &log, &log)?;
    let child = inherit_socket::spawn(command, spec, control_socket)?;
    Ok(Started { child, stderr: log, stderr_from })
}

/// Whether this process is a gateway of this home, by its arguments.
pub fn is_one(pid: Pid, home: &Home) -> bool {
    let arguments = process::arguments(pid);
    let words = arguments.iter().skip(1).take(2).map(OsString::as_os_str);
    words.eq(ARGUMENTS)
        && arguments.get(3).is_some_and(|path| path == home.root().as_os_str())
        && !pid_namespace::is_below(pid)
        && ownership::is_trusted_process(pid)
}

/// The gateway of a home, if one runs: also one whose supervisor was killed before it recorded the gateway.
pub fn find(home: &Home) -> Option<Process> {
    ProcessTable::read().find(|process, _| is_one(process.pid, home)).into_iter().next()
}

/// The TCP address in the arguments of a gateway, as text.
pub fn listen_argument(pid: Pid) -> Option<String> {
    let arguments = process::arguments(pid);
    let mut rest = arguments.iter().skip_while(|argument| *argument != LISTEN);
    Some(rest.nth(1)?.to_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Arguments, spec};
    use crate::home::Home;
    use codexd_core::config::{Gateway, SubagentApprovals};
    use std::ffi::OsString;
    use std::path::Path;

    fn parse(words: &[&str]) -> Option<Arguments> {
        Arguments::parse(words.iter().map(Into::into))
    }

    #[test]
    fn only_its_own_arguments_make_a_gateway() {
        let plain = parse(&["codexd", "gateway", "--codex-home", "/h"]).expect("its arguments");
        assert!(plain.listen.is_none());
        let listening = parse(&["codexd", "gateway", "--codex-home", "/h", "--listen", "127.0.0.1:1"]);
        assert!(listening.is_some_and(|listening| listening.listen.is_some()));
        let all = parse(&["codexd", "gateway", "--codex-home", "/h", "--subagent-approvals", "all"]);
        assert!(all.is_some_and(|all| all.subagent_approvals == SubagentApprovals::All));
        for other in [
            &["codexd", "gateway"][..],
            &["codexd", "gateway", "--help"],
            &["codexd", "gateway", "--codex-home", "/h", "--listen"],
            &["codexd", "gateway", "--codex-home", "/h", "--listen", "x"],
            &["codexd", "gateway", "--codex-home", "/h", "--subagent-approvals", "some"],
            &["codexd", "supervisor", "--codex-home", "/h"],
        ] {
            assert!(parse(other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn a_gateway_reads_the_command_line_that_codexd_writes() {
        let listen = Some("127.0.0.1:4500".parse().expect("an address"));
        for settings in [
            Gateway::default(),
            Gateway::On { listen, subagent_approvals: SubagentApprovals::default() },
            Gateway::On { listen, subagent_approvals: SubagentApprovals::All },
        ] {
            let variable = |name: &str| (name == "PATH" || name == "SECRET").then(|| OsString::from("/bin"));
            let spec = spec(&Home::new("/h"), settings, Path::new("/codexd"), variable).expect("a spec");
            let line =
                std::iter::once(OsString::from("codexd")).chain(spec.args.into_iter().map(|arg| arg.0));
            let read = Arguments::parse(line).expect("its arguments");
            assert_eq!((read.home, read.listen), (Home::new("/h"), settings.listen()));
            assert_eq!(read.subagent_approvals, settings.subagent_approvals());
            let names: Vec<_> = spec.env.iter().map(|(name, _)| name.0.to_string_lossy()).collect();
            assert!(names.contains(&"PATH".into()) && !names.contains(&"SECRET".into()), "{names:?}");
        }
        assert!(spec(&Home::new("/h"), Gateway::Off, Path::new("/codexd"), |_| None).is_none());
    }
}
