//! Putting a table into a page, between its markers.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

/// Replaces what is between `<!-- name:begin -->` and `<!-- name:end -->` in a file.
///
/// # Errors
/// The file's, or it lacks one of the markers.
pub fn replace(path: &Path, name: &str, section: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let new = replaced(&text, name, section).with_context(|| format!("in {}", path.display()))?;
    fs::write(path, new).with_context(|| format!("failed to write {}", path.display()))
}

fn replaced(text: &str, name: &str, section: &str) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->"), format!("<!-- {name}:end -->"));
    let Some((before, rest)) = text.split_once(&begin) else { bail!("there is no {begin}") };
    let Some((_old, after)) = rest.split_once(&end) else { bail!("there is no {end} after {begin}") };
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", section.trim()))
}

#[cfg(test)]
mod tests {
    use super::replaced;

    #[test]
    fn only_the_section_changes() {
        let text = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        let new = replaced(text, "x", "new\n").expect("both markers are there");
        assert_eq!(new, "a\n<!-- x:begin -->\n\nnew\n\n<!-- x:end -->\nb\n");
        assert_eq!(replaced(&new, "x", "new").expect("still there"), new);
        assert!(replaced(text, "y", "new").is_err());
    }
}
