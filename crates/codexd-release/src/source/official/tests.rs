//! Attacks on the chain of digests, and faults of the network, against a small HTTP server on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{SUMS, archive_name, fetch, look_up};
use crate::archive::Bounds;
use crate::digest::sha256_of_bytes;
use crate::error::InstallError;
use crate::source::Wanted;
use crate::source::http::Timeouts;
use crate::step::Silent;

const VERSION: &str = "0.171.0";
const SMALL: Bounds = Bounds { archive_bytes: 1 << 20, unpacked_bytes: 1 << 20, entries: 10 };
const TIMEOUTS: Timeouts = Timeouts { total: Duration::from_secs(20), stall: Duration::from_secs(10) };

/// How a file is sent.
#[derive(Clone, Debug)]
enum Answer {
    Whole(Vec<u8>),
    /// The connection ends after so many bytes; a request for the rest gets the rest.
    CutAfter(Vec<u8>, usize),
    /// Without an end, and without a length.
    Endless,
    /// So many bytes, then nothing.
    Stalls(usize),
    Redirect(String),
}

struct Server {
    base: String,
    files: Arc<Mutex<BTreeMap<String, Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// A server with a release.
    fn with_release(archive: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Self { base, files: Arc::default(), requests: Arc::default() };
        let (files, requests) = (Arc::clone(&server.files), Arc::clone(&server.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, requests) = (Arc::clone(&files), Arc::clone(&requests));
                std::thread::spawn(move || serve(stream, &files, &requests));
            }
        });
        let sums = format!("{}  {}\n", sha256_of_bytes(archive), archive_name(target()));
        server.put(&archive_name(target()), Answer::Whole(archive.to_vec()));
        server.put(SUMS, Answer::Whole(sums.clone().into_bytes()));
        server.state(&sha256_of_bytes(sums.as_bytes()), VERSION);
        server
    }

    fn put(&self, name: &str, answer: Answer) {
        let path = format!("/releases/{VERSION}/{name}");
        self.files.lock().expect("free").insert(path, answer);
    }

    /// The metadata, with the digest of the sums.
    fn state(&self, digest: &str, version: &str) {
        let metadata = format!(
            r#"{{"tag_name": "rust-v{version}", "assets": [{{"name": "other"}}, {{"name": "{SUMS}", "digest": "sha256:{digest}"}}]}}"#
        );
        for path in ["/channels/latest".to_owned(), format!("/releases/{VERSION}/release.json")] {
            self.files.lock().expect("free").insert(path, Answer::Whole(metadata.clone().into_bytes()));
        }
    }

    fn fetch_within(&self, wanted: &Wanted, timeouts: Timeouts) -> Result<Vec<u8>, InstallError> {
        let folder = tempfile::tempdir().expect("a folder");
        let release = look_up(Some(&self.base), wanted, timeouts, &mut Silent)?;
        let (path, digest) = fetch(&release, folder.path(), SMALL, &mut Silent)?;
        let contents = std::fs::read(path).expect("read");
        let found = sha256_of_bytes(&contents);
        if found == digest {
            return Ok(contents);
        }
        super::compare("archive", &digest, &found).map(|()| contents)
    }

    fn fetch(&self) -> Result<Vec<u8>, InstallError> {
        self.fetch_within(&Wanted::Newest, TIMEOUTS)
    }
}

fn target() -> &'static str {
    crate::npm::target().expect("a known platform")
}

fn serve(stream: TcpStream, files: &Mutex<BTreeMap<String, Answer>>, requests: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
    let (mut line, mut from) = (String::new(), 0);
    reader.read_line(&mut line).expect("a request");
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or_default() <= 2 {
            break;
        }
        let range = header.to_ascii_lowercase();
        if let Some(range) = range.strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().expect("a range");
        }
    }
    requests.lock().expect("free").push(format!("{path} {from}"));
    let answer = files.lock().expect("free").get(&path).cloned();
    // The client may have left.
    let _ = send(stream, answer, from);
}

fn send(mut stream: TcpStream, answer: Option<Answer>, from: usize) -> std::io::Result<()> {
    let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n");
    let length = |length: usize| format!("Content-Length: {length}\r\n");
    match answer {
        None => stream.write_all(head("404 Not Found", &length(0)).as_bytes()),
        Some(Answer::Whole(bytes)) => {
            stream.write_all(head("200 OK", &length(bytes.len())).as_bytes())?;
            stream.write_all(&bytes)
        }
        Some(Answer::CutAfter(bytes, count)) => {
            let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
            stream.write_all(head(status, &length(bytes.len() - from)).as_bytes())?;
            let until = bytes.len().min(from + count);
            stream.write_all(&bytes[from..until])
        }
        Some(Answer::Endless) => {
            stream.write_all(head("200 OK", "").as_bytes())?;
            loop {
                stream.write_all(&[0; 4096])?;
            }
        }
        Some(Answer::Stalls(count)) => {
            stream.write_all(head("200 OK", &length(1000)).as_bytes())?;
            stream.write_all(&vec![0; count])?;
            // Until the client has left.
            let _ = BufReader::new(stream).read_line(&mut String::new());
            Ok(())
        }
        Some(Answer::Redirect(to)) => {
            stream.write_all(head("302 Found", &format!("Location: {to}\r\n{}", length(0))).as_bytes())
        }
    }
}

#[test]
fn a_release_is_fetched_and_a_broken_connection_is_continued() {
    let archive: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let server = Server::with_release(&archive);
    assert_eq!(server.fetch().expect("fetched"), archive);
    server.put(&archive_name(target()), Answer::CutAfter(archive.clone(), 60_000));
    assert_eq!(server.fetch().expect("continued"), archive);
    let requests = server.requests.lock().expect("free").join("\n");
    assert!(requests.contains(" 60000\n") && requests.contains(" 120000\n"), "{requests}");
    let redirected = format!("{}/elsewhere", server.base);
    server.files.lock().expect("free").insert("/elsewhere".to_owned(), Answer::Whole(archive.clone()));
    server.put(&archive_name(target()), Answer::Redirect(redirected));
    assert_eq!(server.fetch().expect("redirected"), archive);
    let version = Wanted::Version(VERSION.to_owned());
    assert_eq!(server.fetch_within(&version, TIMEOUTS).expect("fetched"), archive);
}

#[test]
fn a_wrong_digest_at_any_link_of_the_chain_is_refused() {
    let server = Server::with_release(b"archive");
    server.state(&"0".repeat(64), VERSION);
    let refused = server.fetch();
    assert!(
        matches!(&refused, Err(InstallError::DigestMismatch { subject, .. }) if subject == SUMS),
        "{refused:?}"
    );
    let requests = server.requests.lock().expect("free").join("\n");
    assert!(!requests.contains("tar.gz"), "nothing was downloaded on the word of wrong sums: {requests}");
    let server = Server::with_release(b"archive");
    server.put(&archive_name(target()), Answer::Whole(b"another".to_vec()));
    let refused = server.fetch();
    assert!(matches!(refused, Err(InstallError::DigestMismatch { .. })), "{refused:?}");
    let server = Server::with_release(b"archive");
    let sums = b"nothing of use\n".to_vec();
    server.state(&sha256_of_bytes(&sums), VERSION);
    server.put(SUMS, Answer::Whole(sums));
    assert!(matches!(server.fetch(), Err(InstallError::Incomplete { .. })));
    let server = Server::with_release(b"archive");
    server.state("not a digest", VERSION);
    assert!(matches!(server.fetch(), Err(InstallError::Unreachable { .. })));
}

#[test]
fn another_version_than_the_wanted_one_is_refused() {
    let server = Server::with_release(b"archive");
    server.state(&"0".repeat(64), "0.170.0");
    let refused = server.fetch_within(&Wanted::Version(VERSION.to_owned()), TIMEOUTS);
    assert!(matches!(refused, Err(InstallError::VersionNotFound { .. })), "{refused:?}");
    server.state(&"0".repeat(64), "../../0.170.0");
    assert!(matches!(server.fetch(), Err(InstallError::Unreachable { .. })));
    let missing = server.fetch_within(&Wanted::Version("0.0.1".to_owned()), TIMEOUTS);
    assert!(matches!(missing, Err(InstallError::VersionNotFound { .. })), "{missing:?}");
}

#[test]
fn endless_slow_and_truncated_files_end_within_their_limits() {
    let server = Server::with_release(b"archive");
    server.put(&archive_name(target()), Answer::Endless);
    assert!(matches!(server.fetch(), Err(InstallError::TooLarge { .. })));
    server.put(SUMS, Answer::Endless);
    assert!(matches!(server.fetch(), Err(InstallError::TooLarge { .. })));
    let server = Server::with_release(b"archive");
    let quick = Timeouts { total: Duration::from_secs(20), stall: Duration::from_millis(100) };
    for count in [0, 500] {
        server.put(&archive_name(target()), Answer::Stalls(count));
        let stalled = server.fetch_within(&Wanted::Newest, quick);
        assert!(matches!(stalled, Err(InstallError::Unreachable { .. })), "{stalled:?}");
    }
    let over = Timeouts { total: Duration::ZERO, stall: Duration::from_secs(10) };
    let late = server.fetch_within(&Wanted::Newest, over);
    assert!(matches!(late, Err(InstallError::TimedOut { .. })), "{late:?}");
    server.put(&archive_name(target()), Answer::CutAfter(vec![0; 1000], 1));
    let truncated = server.fetch();
    assert!(matches!(truncated, Err(InstallError::Unreachable { .. })), "{truncated:?}");
}

#[test]
fn a_redirect_to_a_file_or_in_a_circle_is_refused() {
    let server = Server::with_release(b"archive");
    let circle = format!("{}/releases/{VERSION}/{}", server.base, archive_name(target()));
    for to in ["file:///etc/passwd".to_owned(), circle] {
        server.put(&archive_name(target()), Answer::Redirect(to.clone()));
        let refused = server.fetch();
        assert!(matches!(refused, Err(InstallError::Unreachable { .. })), "{to}: {refused:?}");
    }
}
