//! Small stand-ins for the packages of Codex, and for the npm client that brings them.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use sha2::{Digest, Sha256};

use crate::fakes::FAKE_VERSION;
use crate::{Fake, codex, run};

/// How long tar may take.
const PACK: Duration = Duration::from_secs(20);

/// Writes an unpacked release: every file that one has, with a fake as its Codex.
///
/// # Errors
/// The files'; no release for this machine.
pub fn release(folder: &Path, version: &str, codex: &Fake) -> anyhow::Result<()> {
    let (_, target) = codex::platform().map_err(anyhow::Error::msg)?;
    let text = codex.text()?.replace(FAKE_VERSION, version);
    for program in ["bin/codex", "bin/codex-code-mode-host", "codex-path/rg", "codex-resources/bwrap"] {
        write(&folder.join(program), &text, 0o755)?;
    }
    let manifest = serde_json::json!({"layoutVersion": 1, "version": version, "target": target});
    write(&folder.join("codex-package.json"), &manifest.to_string(), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(mode))?)
}

/// Packs such a release as npm has it, beside `folder`, where it is unpacked.
///
/// # Errors
/// As [`release`]; tar is missing.
pub fn tarball(folder: &Path, version: &str, codex: &Fake) -> anyhow::Result<PathBuf> {
    let (_, target) = codex::platform().map_err(anyhow::Error::msg)?;
    release(&folder.join("package/vendor").join(target), version, codex)?;
    let archive = folder.with_added_extension("tgz");
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&archive).arg("-C").arg(folder).arg("package");
    let done = run::run(tar, PACK).context("failed to run tar")?;
    ensure!(done.success(), "tar failed: {done}");
    Ok(archive)
}

/// A folder with an `npm` in it that knows one version, whose package is `archive` and has the integrity `integrity`. Before it packs, it runs
/// the shell line `before_pack`.
///
/// # Errors
/// The files'; no release for this machine.
pub fn npm(
    folder: &Path,
    version: &str,
    archive: &Path,
    integrity: &str,
    before_pack: &str,
) -> anyhow::Result<PathBuf> {
    let (platform, _) = codex::platform().map_err(anyhow::Error::msg)?;
    let spec = format!("@openai/codex@{version}-{platform}");
    let optional = serde_json::json!({format!("@openai/codex-{platform}"): format!("npm:{spec}")});
    let main = serde_json::json!({"version": version, "dist": {}, "optionalDependencies": optional});
    let package = serde_json::json!({"version": version, "dist": {"integrity": integrity}});
    let missing = r#"{"error": {"code": "E404", "summary": "No match found"}}"#;
    let script = format!(
        "#!/bin/sh\ncase \"$1 $3\" in\n\
         'view @openai/codex@{version}' | 'view @openai/codex@latest') echo '{main}';;\n\
         'view {spec}') echo '{package}';;\n\
         view*) echo '{missing}'; exit 1;;\n\
         pack*) {before_pack}\ncp '{archive}' \"$5/package.tgz\" && echo '[{{\"filename\": \"package.tgz\"}}]';;\n\
         *) exit 2;;\nesac\n",
        archive = archive.display()
    );
    write(&folder.join("npm"), &script, 0o755)?;
    Ok(folder.to_owned())
}

/// Serves one release on loopback as the official server does, until the process ends. Returns its URL. The digest of the package in the
/// sums is that of `stated`.
///
/// # Errors
/// The files'; no release for this machine.
pub fn official(version: &str, archive: &Path, stated: &Path) -> anyhow::Result<String> {
    let (_, target) = codex::platform().map_err(anyhow::Error::msg)?;
    let digest =
        |bytes: &[u8]| Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (sums_name, name) = ("codex-package_SHA256SUMS", format!("codex-package-{target}.tar.gz"));
    let sums = format!("{}  {name}\n", digest(&fs::read(stated)?));
    let assets =
        serde_json::json!([{"name": sums_name, "digest": format!("sha256:{}", digest(sums.as_bytes()))}]);
    let metadata = serde_json::json!({"tag_name": format!("rust-v{version}"), "assets": assets}).to_string();
    let files = HashMap::from([
        ("/channels/latest".to_owned(), metadata.clone().into_bytes()),
        (format!("/releases/{version}/release.json"), metadata.into_bytes()),
        (format!("/releases/{version}/{sums_name}"), sums.into_bytes()),
        (format!("/releases/{version}/{name}"), fs::read(archive)?),
    ]);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that has left gets no answer.
            let _left = answer(stream, &files);
        }
    });
    Ok(url)
}

fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    while reader.read_line(&mut String::new())? > 2 {}
    let nothing = Vec::new();
    let (status, bytes) = match request.split(' ').nth(1).and_then(|path| files.get(path)) {
        Some(bytes) => ("200 OK", bytes),
        None => ("404 Not Found", &nothing),
    };
    let length = bytes.len();
    stream.write_all(
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    stream.write_all(bytes)
}
