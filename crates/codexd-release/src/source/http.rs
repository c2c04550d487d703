//! Downloads over HTTPS, bounded in bytes and time. Proxies (`HTTPS_PROXY`, `NO_PROXY`) and the certificates of the system
//! (`SSL_CERT_FILE`) count. A redirect can only lead to another web address.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Body, http};

use crate::error::InstallError;
use crate::limits::{
    CHUNK_BYTES, DOWNLOAD_ATTEMPTS, DOWNLOAD_STALL_TIMEOUT, DOWNLOAD_TIMEOUT, HTTP_CONNECT_TIMEOUT,
    HTTP_REDIRECTS_MAX,
};

/// How long a download may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// All of it, with every attempt.
    pub total: Duration,
    /// Without a byte.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { total: DOWNLOAD_TIMEOUT, stall: DOWNLOAD_STALL_TIMEOUT }
    }
}

/// Why there is no file.
#[derive(Debug)]
pub enum HttpError {
    /// The server does not have it.
    NotFound,
    /// The server cannot be reached, or its answer is of no use.
    Failed(String),
    /// Something else.
    Install(InstallError),
}

/// A client for one server, and where that redirects to.
#[derive(Debug)]
pub struct Http {
    agent: Agent,
    timeouts: Timeouts,
    until: Instant,
}

impl Http {
    /// A client. `base` decides whether plain HTTP is allowed at all.
    pub fn new(base: &str, timeouts: Timeouts) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(provider)
            .build();
        let config = Agent::config_builder()
            .https_only(base.starts_with("https://"))
            .http_status_as_error(false)
            .max_redirects(HTTP_REDIRECTS_MAX)
            .timeout_connect(Some(HTTP_CONNECT_TIMEOUT))
            .timeout_recv_response(Some(timeouts.stall))
            .timeout_per_read(Some(timeouts.stall))
            .user_agent(concat!("codexd/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), timeouts, until: Instant::now() + timeouts.total }
    }

    fn get(&self, url: &str, from: u64) -> Result<http::Response<Body>, HttpError> {
        let mut request = self.agent.get(url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| HttpError::Failed(format!("{url}: {error}")))?;
        match response.status().as_u16() {
            200 | 206 => Ok(response),
            404 | 410 => Err(HttpError::NotFound),
            status => Err(HttpError::Failed(format!("{url} was answered with {status}"))),
        }
    }

    /// A small file.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn read(&self, url: &str, bytes_max: u64) -> Result<Vec<u8>, HttpError> {
        let mut body = self.get(url, 0)?.into_body();
        let mut read = Vec::new();
        self.copy(&mut body.as_reader(), &mut read, url, bytes_max, &mut |_| {})?;
        Ok(read)
    }

    /// Downloads a file to a path that does not exist. A connection that ends early is continued. `progress` gets the bytes so far, and all
    /// bytes if they are known.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub fn download(
        &self,
        url: &str,
        path: &Path,
        bytes_max: u64,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), HttpError> {
        let failed = |error| HttpError::Install(InstallError::file("write", path)(error));
        let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        let mut done = 0;
        for attempt in 1.. {
            let outcome = self.get(url, done).and_then(|response| {
                if done > 0 && response.status().as_u16() == 200 {
                    // It cannot be continued.
                    file.set_len(0).and_then(|()| io::Seek::rewind(&mut file)).map_err(failed)?;
                    done = 0;
                }
                let mut body = response.into_body();
                let (before, total) = (done, body.content_length().map(|left| done + left));
                if total.is_some_and(|total| total > bytes_max) {
                    return Err(too_large(url, bytes_max));
                }
                let copied =
                    self.copy(&mut body.as_reader(), &mut file, url, bytes_max - before, &mut |count| {
                        done = before + count;
                        progress(done, total);
                    });
                copied.and_then(|()| match total.is_some_and(|total| done < total) {
                    true => Err(HttpError::Failed(format!("{url} ended after {done} bytes"))),
                    false => Ok(()),
                })
            });
            match outcome {
                Err(HttpError::Failed(_)) if attempt < DOWNLOAD_ATTEMPTS && done > 0 => {}
                other => return other,
            }
        }
        Ok(())
    }

    /// Copies a body. The time of all calls together is limited.
    fn copy(
        &self,
        body: &mut impl Read,
        to: &mut impl Write,
        url: &str,
        bytes_max: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), HttpError> {
        let (mut chunk, mut done) = (vec![0; CHUNK_BYTES], 0);
        loop {
            let count =
                body.read(&mut chunk).map_err(|error| HttpError::Failed(format!("{url}: {error}")))?;
            if count == 0 {
                return Ok(());
            }
            if done + count as u64 > bytes_max {
                return Err(too_large(url, bytes_max));
            }
            to.write_all(&chunk[..count]).map_err(|error| {
                HttpError::Install(InstallError::file("write", Path::new("the package"))(error))
            })?;
            done += count as u64;
            progress(done);
            if Instant::now() >= self.until {
                let (what, waited) = (url.to_owned(), self.timeouts.total);
                return Err(HttpError::Install(InstallError::TimedOut { what, waited }));
            }
        }
    }
}

fn too_large(url: &str, limit: u64) -> HttpError {
    HttpError::Install(InstallError::TooLarge { path: url.into(), limit: format!("{limit} bytes") })
}
