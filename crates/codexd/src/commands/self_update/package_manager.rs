//! Whether a package manager owns the binary: it would overwrite what `self-update` writes, or find a changed file.

use std::fs;
use std::path::{Component, Path};

use codexd_core::contract::{ErrorCode, Failure};

/// Where dpkg lists the files of each package, as `PACKAGE.list` or `PACKAGE:ARCHITECTURE.list`.
const DPKG_LISTS: &str = "/var/lib/dpkg/info";

/// A package that owns the binary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    manager: &'static str,
    package: String,
}

impl Owner {
    /// The refusal to replace the binary.
    pub fn refusal(&self, binary: &Path) -> Failure {
        let Owner { manager, package } = self;
        let update = match *manager {
            "npm" => "npm install -g ./FILE.tgz",
            _ => "apt-get install ./FILE.deb",
        };
        let message = format!(
            "{} belongs to the {manager} package {package}, which has to update it; nothing has changed",
            binary.display()
        );
        Failure::new(ErrorCode::PackageOwned, message)
            .hint(format!("install the package of the newer version: `{update}`"))
            .with("packageManager", *manager)
            .with("package", package.clone())
            .with("path", binary.to_string_lossy().into_owned())
    }
}

/// The package that owns a file.
pub fn owner(file: &Path) -> Option<Owner> {
    of_npm(file).or_else(|| of_dpkg(file, Path::new(DPKG_LISTS)))
}

/// npm unpacks a package into `node_modules/NAME` or `node_modules/@SCOPE/NAME`.
fn of_npm(file: &Path) -> Option<Owner> {
    let names: Vec<&str> = file
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let at = names.iter().rposition(|name| *name == "node_modules")?;
    let package = match names.get(at + 1..)? {
        [scope, name, _, ..] if scope.starts_with('@') => format!("{scope}/{name}"),
        [name, _, ..] => (*name).to_owned(),
        _ => return None,
    };
    Some(Owner { manager: "npm", package })
}

/// The lists are read, because `dpkg-query` may be missing where they are not.
fn of_dpkg(file: &Path, lists: &Path) -> Option<Owner> {
    let file = file.to_str()?;
    for entry in fs::read_dir(lists).ok()?.flatten() {
        let name = entry.file_name();
        let Some(package) = name.to_str().and_then(|name| name.strip_suffix(".list")) else { continue };
        let Ok(list) = fs::read_to_string(entry.path()) else { continue };
        if list.lines().any(|line| line == file) {
            let package = package.split(':').next().unwrap_or(package).to_owned();
            return Some(Owner { manager: "dpkg", package });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Owner, of_dpkg, of_npm};

    fn owned(manager: &'static str, package: &str) -> Option<Owner> {
        Some(Owner { manager, package: package.to_owned() })
    }

    #[test]
    fn a_binary_in_a_package_of_npm_belongs_to_it() {
        let of = |path: &str| of_npm(Path::new(path));
        assert_eq!(of("/usr/lib/node_modules/codexd/bin/codexd"), owned("npm", "codexd"));
        assert_eq!(of("/h/node_modules/@a/codexd/bin/codexd"), owned("npm", "@a/codexd"));
        assert_eq!(of("/h/node_modules/x/node_modules/codexd/bin/codexd"), owned("npm", "codexd"));
        assert_eq!(of("/home/you/.local/bin/codexd"), None);
        assert_eq!(of("/h/node_modules/codexd"), None);
    }

    #[test]
    fn a_binary_that_a_list_of_dpkg_has_belongs_to_its_package() -> anyhow::Result<()> {
        let lists = tempfile::tempdir()?;
        fs::write(lists.path().join("other.list"), "/.\n/usr/bin/codexd-other\n")?;
        fs::write(lists.path().join("codexd.md5sums"), "/usr/bin/codexd\n")?;
        let file = Path::new("/usr/bin/codexd");
        assert_eq!(of_dpkg(file, lists.path()), None);
        fs::write(lists.path().join("codexd:amd64.list"), "/.\n/usr/bin\n/usr/bin/codexd\n")?;
        assert_eq!(of_dpkg(file, lists.path()), owned("dpkg", "codexd"));
        assert_eq!(of_dpkg(Path::new("/usr/local/bin/codexd"), lists.path()), None);
        Ok(())
    }
}
