//! The tarball and its `install.sh`, from a file and from a loopback server.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, ensure};
use codexd_testkit::{Codexd, Run};

use super::{Fixture, text_of};
use crate::package::{Compression, tarball, write_sha256};

/// The packages in a folder, as a download folder has them.
struct Download {
    fixture: Fixture,
    out: PathBuf,
    tarball: PathBuf,
}

impl Download {
    fn new() -> anyhow::Result<Download> {
        let fixture = Fixture::new()?;
        let out = fixture.folder("out")?;
        let tarball = tarball::build(&fixture.contents, &out, Compression::Fast)?;
        write_sha256(&tarball)?;
        tarball::copy_installer(&out)?;
        Ok(Download { fixture, out, tarball })
    }

    fn install(&self, arguments: &[&str]) -> anyhow::Result<Run> {
        let script = self.out.join("install.sh");
        self.fixture.run("sh", &[&[text_of(&script)], arguments].concat())
    }

    /// Checks that it fails with this reason and installs nothing below the prefix.
    fn refused(&self, arguments: &[&str], reason: &str) -> anyhow::Result<()> {
        let prefix = self.fixture.folder.path().join("refused");
        let run = self.install(&[arguments, &["--prefix", text_of(&prefix)]].concat())?;
        ensure!(run.code() == Some(1) && run.stderr.contains(reason), "no {reason:?}: {run}");
        let left: Vec<_> = fs::read_dir(prefix.join("bin")).into_iter().flatten().collect();
        ensure!(left.is_empty(), "{reason}: {left:?}");
        Ok(())
    }
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn install_sh_installs_the_tarball_beside_it_and_changes_nothing_the_second_time() -> anyhow::Result<()> {
    let download = Download::new()?;
    let home = download.fixture.home.profile();
    let first = download.install(&[])?;
    ensure!(first.success() && first.stdout.contains("installed codexd"), "{first}");
    let bin = home.join(".local/bin");
    ensure!(first.stdout.contains("next: ") && first.stdout.trim_end().ends_with("codexd up"), "{first}");
    ensure!(names(&bin)? == ["codexd"]);
    download.fixture.assert_runs(&bin.join("codexd"))?;
    let share = home.join(".local/share");
    for file in [
        "man/man1/codexd.1",
        "bash-completion/completions/codexd",
        "zsh/site-functions/_codexd",
        "doc/codexd/LICENSE-MIT",
    ] {
        ensure!(share.join(file).is_file(), "no {file}");
    }

    let modified = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    let before = modified(&bin.join("codexd"))?;
    let second = download.install(&[])?;
    ensure!(second.success() && second.stdout.contains("is already in"), "{second}");
    ensure!(modified(&bin.join("codexd"))? == before, "the binary was replaced by the same one");
    ensure!(names(&bin)? == ["codexd"]);

    // What it installed may update itself, from the same tarball; and install.sh replaces an older one.
    let update = ["self-update", "--from", text_of(&download.tarball)];
    let reply = Codexd::at(&download.fixture.home, &bin.join("codexd")).json(&update)?;
    ensure!(reply["status"] == "alreadyCurrent" && reply["checksumFile"].is_string(), "{reply}");
    fs::write(bin.join("codexd"), "older")?;
    ensure!(download.install(&[])?.stdout.contains("installed codexd"));
    download.fixture.assert_runs(&bin.join("codexd"))
}

#[test]
fn install_sh_refuses_what_it_cannot_verify() -> anyhow::Result<()> {
    let download = Download::new()?;
    let tarball = text_of(&download.tarball);
    let checksum_file = download.tarball.with_added_extension("sha256");
    let right = fs::read_to_string(&checksum_file)?;
    let zeros = "0".repeat(64);

    download.refused(&["--sha256", &zeros], "expected 0000")?;
    download.refused(&["--sha256", "abc"], "not a SHA-256")?;
    download.refused(&["--from", "/no/such/file"], "is not a file")?;
    download
        .refused(&["--from", "http://example.com/codexd.tar.gz"], "cannot verify a tarball over http://")?;
    download.refused(&["--from", "ftp://example.com/codexd.tar.gz"], "cannot download")?;
    download.refused(&["--bogus"], "unknown argument")?;
    fs::write(&checksum_file, format!("{zeros}  x\n"))?;
    download.refused(&["--from", tarball], "expected 0000")?;
    fs::write(&checksum_file, "<html>not found</html>\n")?;
    download.refused(&["--from", tarball], "not a SHA-256")?;
    fs::write(&checksum_file, "")?;
    download.refused(&["--from", tarball], "is empty")?;
    fs::remove_file(&checksum_file)?;
    download.refused(&["--from", tarball], "cannot verify")?;
    let expected = right.split_whitespace().next().context("a SHA-256")?;
    let prefix = download.fixture.folder("prefix with blanks")?;
    let named = download.install(&["--sha256", expected, "--prefix", text_of(&prefix)])?;
    ensure!(named.success(), "{named}");
    download.fixture.assert_runs(&prefix.join("bin/codexd"))?;

    // A right SHA-256 of something that is not codexd.
    fs::write(&download.tarball, "no tarball")?;
    write_sha256(&download.tarball)?;
    download.refused(&["--from", tarball], "failed to unpack")
}

#[test]
fn install_sh_downloads_from_a_server_and_verifies() -> anyhow::Result<()> {
    let download = Download::new()?;
    let (address, requests) = serve(&download.out)?;
    let name = download.tarball.file_name().context("a name")?.to_string_lossy().into_owned();
    let url = format!("http://{address}/{name}");
    let prefix = download.fixture.folder("prefix")?;
    let run = download.install(&["--from", &url, "--prefix", text_of(&prefix)])?;
    ensure!(run.success(), "{run}");
    download.fixture.assert_runs(&prefix.join("bin/codexd"))?;
    let asked = requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ensure!(asked == [format!("/{name}.sha256"), format!("/{name}")], "{asked:?}");

    download.refused(&["--from", &format!("http://{address}/missing.tar.gz")], "failed to download")?;
    fs::write(download.tarball.with_added_extension("sha256"), "0".repeat(64))?;
    download.refused(&["--from", &url], "expected 0000")
}

/// The paths that a server was asked for.
type Requests = Arc<Mutex<Vec<String>>>;

/// Serves the files of a folder until the test process ends.
fn serve(folder: &Path) -> anyhow::Result<(String, Requests)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let (requests, folder) = (Requests::default(), folder.to_owned());
    let seen = Arc::clone(&requests);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client that hangs up fails by itself.
            let _ = answer(connection, &folder, &seen);
        }
    });
    Ok((address, requests))
}

fn answer(mut connection: TcpStream, folder: &Path, requests: &Requests) -> anyhow::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().context("a request")??;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).context("a path")?.to_owned();
    let file = fs::read(folder.join(path.trim_start_matches('/')));
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(path);
    let (status, body) = file.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    write!(connection, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    connection.write_all(&body)?;
    Ok(())
}
