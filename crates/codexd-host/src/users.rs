//! The users of this machine, as far as `/etc/passwd` names them.

use std::fs;
use std::path::PathBuf;

/// A user.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The primary group.
    pub gid: u32,
    /// The home folder.
    pub home: PathBuf,
}

/// The user with this uid, if `/etc/passwd` has one.
pub fn find(uid: u32) -> Option<User> {
    find_in(&fs::read_to_string("/etc/passwd").ok()?, uid)
}

fn find_in(passwd: &str, uid: u32) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = PathBuf::from(fields.nth(1)?);
        (found == uid).then(|| User { name: name.to_owned(), gid, home })
    })
}

/// The user, for messages.
pub fn named(uid: u32) -> String {
    match find(uid) {
        Some(user) => format!("user {} (uid {uid})", user.name),
        None => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{User, find_in};

    #[test]
    fn a_user_is_found_by_uid_and_a_malformed_line_is_skipped() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n::7\nu:x:1000:1001:U:/home/u:/bin/sh\n";
        let user = User { name: "u".to_owned(), gid: 1001, home: "/home/u".into() };
        assert_eq!(find_in(passwd, 1000), Some(user));
        assert_eq!(find_in(passwd, 7), None);
    }
}
