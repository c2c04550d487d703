//! Every timeout and every size of an install.

use std::time::Duration;

/// Bytes of a package that is fetched; that of 0.171.0 has 172 MB.
pub const ARCHIVE_BYTES_MAX: u64 = 1 << 30;
/// Bytes that a package may have once it is unpacked; that of 0.171.0 has 444 MB.
pub const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Files, folders and links of a package; that of 0.171.0 has about 50.
pub const ENTRIES_MAX: u64 = 20_000;
/// Bytes of a path or of the target of a link in a package.
pub const ENTRY_PATH_BYTES_MAX: usize = 1_024;
/// Bytes of a header that only describes the next entry.
pub const ENTRY_DESCRIPTION_BYTES_MAX: u64 = 64 << 10;
/// Folders that a local package may be nested in.
pub const FOLDER_DEPTH_MAX: usize = 32;
/// Bytes of a manifest, such as `codex-package.json`.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Bytes that are copied, hashed or unpacked at once.
pub const CHUNK_BYTES: usize = 128 << 10;
/// How long `npm view` may take.
pub const NPM_VIEW_TIMEOUT: Duration = Duration::from_secs(120);
/// How long `npm pack` may take, which downloads the package.
pub const NPM_PACK_TIMEOUT: Duration = Duration::from_secs(1_800);
/// Bytes of the output of npm that are read.
pub const NPM_OUTPUT_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the metadata of a release.
pub const METADATA_BYTES_MAX: u64 = 4 << 20;
/// Bytes of the file with the digests of a release.
pub const SUMS_BYTES_MAX: u64 = 1 << 20;
/// How long a download may take, with every attempt.
pub const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(1_800);
/// How long a download may pause before it is resumed over another connection.
pub const DOWNLOAD_STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a download is tried.
pub const DOWNLOAD_ATTEMPTS: u32 = 5;
/// How long a connection may take.
pub const HTTP_CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How many redirects are followed.
pub const HTTP_REDIRECTS_MAX: u32 = 5;
/// Bytes of the official installer; it has 35 kB.
pub const SCRIPT_BYTES_MAX: u64 = 1 << 20;
/// How long its download may take.
pub const SCRIPT_DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may run, which includes the download of a release.
pub const SCRIPT_TIMEOUT: Duration = Duration::from_secs(1_800);
/// Bytes of each of its outputs that are read.
pub const SCRIPT_OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// Bytes at the end of its output that a failure has.
pub const SCRIPT_OUTPUT_KEPT_BYTES: usize = 4 << 10;
/// How long a program has to close its output after its exit: a process that it started may have it open.
pub const OUTPUT_END_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a running download reports that it goes on.
pub const WAIT_REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// The age from which the lock folder of an official installer that is gone counts as abandoned, as that installer has it.
pub const LOCK_FOLDER_STALE_AFTER: Duration = Duration::from_secs(600);
/// How often the lock folder of an official installer is looked at.
pub const LOCK_FOLDER_POLL: Duration = Duration::from_millis(200);
/// Bytes of the text in a lock file that name its holder.
pub const LOCK_HOLDER_BYTES_MAX: u64 = 256;
/// Releases that the record lists.
pub const RECORDED_MAX: usize = 32;
