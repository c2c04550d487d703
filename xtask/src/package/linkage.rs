//! What a binary needs of the system: nothing if it is static, else a version of the GNU C Library.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::output;

/// How a binary is linked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Linkage {
    /// It needs no library of the system.
    Static,
    /// It needs at least this version of glibc: major and minor.
    Glibc(u32, u32),
}

impl Linkage {
    /// Reads it from the binary.
    ///
    /// # Errors
    /// `readelf` is missing or cannot read the file.
    pub fn of(binary: &Path) -> anyhow::Result<Linkage> {
        let readelf = |option| {
            let mut command = Command::new("readelf");
            command.args(["--wide", option]).arg(binary).env("LC_ALL", "C");
            output(&mut command).map(|text| String::from_utf8_lossy(&text).into_owned())
        };
        if !readelf("--program-headers")?.lines().any(|line| line.trim_start().starts_with("INTERP")) {
            return Ok(Linkage::Static);
        }
        let (major, minor) =
            newest_glibc(&readelf("--version-info")?).context("no version of glibc is needed")?;
        Ok(Linkage::Glibc(major, minor))
    }

    /// The `Depends` of the .deb.
    pub fn depends(&self) -> String {
        match self {
            Linkage::Static => String::new(),
            Linkage::Glibc(major, minor) => format!("Depends: libc6 (>= {major}.{minor}), libgcc-s1\n"),
        }
    }
}

impl fmt::Display for Linkage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Linkage::Static => write!(out, "static, needs no library"),
            Linkage::Glibc(major, minor) => write!(out, "needs glibc {major}.{minor} or later"),
        }
    }
}

/// The newest of the `GLIBC_x.y` versions.
fn newest_glibc(text: &str) -> Option<(u32, u32)> {
    let versions = text.split("GLIBC_").skip(1).filter_map(|rest| {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
        let mut numbers = rest[..end].split('.').map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::newest_glibc;

    #[test]
    fn the_newest_version_is_compared_as_numbers() {
        let text =
            "  0x0030:   Name: GLIBC_2.9  Flags: none\n Name: GLIBC_2.34\n Name: GLIBC_2.2.5 GLIBC_PRIVATE";
        assert_eq!(newest_glibc(text), Some((2, 34)));
        assert_eq!(newest_glibc("Name: GCC_3.0"), None);
    }
}
