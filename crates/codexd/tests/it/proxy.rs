//! `codexd proxy`: what goes in comes out, and nothing else.

mod lines;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use codexd_testkit::{AppServer, Codexd, Home, Server, Version, block_on, codex, skip};

/// No proxy here takes so long.
const TIMEOUT: Duration = Duration::from_secs(60);

pub const SERVERS: [Server; 2] = [Server::Real(Version::NEWEST), Server::Embedded];

/// Runs a command to its end with `input`; stdin is closed behind it, or kept open until the command ends.
pub fn piped(mut command: Command, input: Vec<u8>, close: bool) -> anyhow::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    let pid = rustix::process::Pid::from_child(&child);
    let (hold, held) = mpsc::channel::<()>();
    thread::spawn(move || {
        let _ = stdin.write_all(&input);
        if !close {
            let _ = held.recv();
        }
    });
    let (tell, ended) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(TIMEOUT) else {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        anyhow::bail!("it did not end: {:?}", ended.recv()?);
    };
    drop(hold);
    Ok(output?)
}

/// One client is served by `serve`.
pub fn stub<T: Send + 'static>(
    home: &Home,
    serve: impl FnOnce(UnixStream) -> T + Send + 'static,
) -> anyhow::Result<JoinHandle<anyhow::Result<T>>> {
    let listener = UnixListener::bind(home.bare_socket())?;
    Ok(thread::spawn(move || Ok(serve(listener.accept()?.0))))
}

pub fn proxy(home: &Home, more: &[&str]) -> anyhow::Result<Command> {
    let mut command = Codexd::new(home)?.command(&["proxy", "--sock"]);
    command.arg(home.bare_socket()).args(more);
    Ok(command)
}

/// What both proxies must do alike: the name, how the server behaves, and whether stdin ends.
type Scene = (&'static str, fn(UnixStream) -> String);

fn reads_all_then_answers(mut stream: UnixStream) -> String {
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all).map_err(|error| error.kind());
    let _ = stream.write_all(&all);
    format!("{read:?}")
}

fn answers_in_the_middle(mut stream: UnixStream) -> String {
    let mut some = [0; 7];
    let read = stream.read_exact(&mut some).map_err(|error| error.kind());
    let _ = stream.write_all(b"\0\xff\nbytes\n");
    let _ = stream.shutdown(Shutdown::Write);
    let mut rest = Vec::new();
    format!("{read:?} {:?}", stream.read_to_end(&mut rest).map_err(|error| error.kind()))
}

fn says_goodbye_at_the_end(mut stream: UnixStream) -> String {
    let _ = stream.write_all(b"hello");
    let mut all = Vec::new();
    let read = stream.read_to_end(&mut all).map_err(|error| error.kind());
    let _ = stream.write_all(b", and goodbye");
    format!("{read:?}")
}

const SCENES: [Scene; 3] = [
    ("reads all, then answers", reads_all_then_answers),
    ("answers in the middle", answers_in_the_middle),
    ("says goodbye at the end", says_goodbye_at_the_end),
];

fn play(home: &Home, scene: Scene, command: Command) -> anyhow::Result<(Option<i32>, Vec<u8>, String)> {
    let _ = std::fs::remove_file(home.bare_socket());
    let server = stub(home, scene.1)?;
    let input: Vec<u8> = (0..1_500_007_u32).map(|at| (at % 251) as u8).collect();
    let output = piped(command, input, true)?;
    Ok((output.status.code(), output.stdout, server.join().expect("no panic")?))
}

#[test]
fn proxy_copies_the_same_bytes_as_the_real_one() -> anyhow::Result<()> {
    let home = Home::new()?;
    let real = match codex::binary(Version::NEWEST) {
        Ok(real) => real,
        Err(error) => skip!("no Codex: {error:#}"),
    };
    for scene in SCENES {
        let mut theirs = home.command(&real);
        theirs.args(["app-server", "proxy", "--sock"]).arg(home.bare_socket());
        let theirs = play(&home, scene, theirs)?;
        let ours = play(&home, scene, proxy(&home, &[])?)?;
        assert!(ours == theirs, "{}: {:?} {:?}", scene.0, (ours.0, &ours.2), (theirs.0, &theirs.2));
        assert_eq!(ours.0, Some(0), "{}", scene.0);
    }
    Ok(())
}

#[test]
fn proxy_exits_when_the_server_closes_the_connection_although_stdin_is_open() -> anyhow::Result<()> {
    let home = Home::new()?;
    let server = stub(&home, |mut stream| stream.write_all(b"last words"))?;
    let output = piped(proxy(&home, &[])?, Vec::new(), false)?;
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"last words"[..]));
    server.join().expect("no panic")??;
    Ok(())
}

#[test]
fn errors_of_proxy_are_on_stderr_only() -> anyhow::Result<()> {
    let home = Home::new()?;
    for more in [&[][..], &["--lines"]] {
        for command in [proxy(&home, more)?, {
            let mut command = Codexd::new(&home)?.command(&["app-server", "proxy"]);
            command.args(more);
            command
        }] {
            let output = piped(command, b"{}\n".to_vec(), true)?;
            assert_eq!((output.status.code(), &output.stdout[..]), (Some(5), &b""[..]));
            let said = String::from_utf8(output.stderr)?;
            assert!(said.starts_with("error: failed to connect to /"), "{said}");
        }
    }
    let server = stub(&home, |mut stream| {
        let _ = stream.write_all(&[b'x'; 100_000]);
        let _ = stream.read(&mut [0; 1]);
    })?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let closed = proxy(&home, &[])?.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).spawn()?;
    let output = closed.wait_with_output()?;
    assert_eq!(output.status.code(), Some(15), "{}", String::from_utf8_lossy(&output.stderr));
    server.join().expect("no panic")?;
    Ok(())
}

#[test]
fn a_client_of_proxy_talks_to_the_server() -> anyhow::Result<()> {
    for server in SERVERS {
        let home = Home::new()?;
        let running = match block_on(AppServer::start(&home, server)) {
            Ok(running) => running,
            Err(error) if matches!(server, Server::Real(_)) => skip!("no Codex: {error:#}"),
            Err(error) => return Err(error),
        };
        let request = "GET /rpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut child = proxy(&home, &[])?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        stdin.write_all(request.as_bytes())?;
        let mut stdout = child.stdout.take().context("a pipe")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{server:?}: {}", String::from_utf8_lossy(&head));
        drop(stdin);
        stdout.read_to_end(&mut head)?;
        assert_eq!(child.wait()?.code(), Some(0), "{server:?}");
        drop(running);
    }
    Ok(())
}
