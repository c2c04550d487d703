//! Whether a file is a program for this machine, by its ELF header.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The first four bytes of an ELF file.
pub const MAGIC: &[u8] = b"\x7fELF";
/// `e_type` of a program, and of one that may be loaded anywhere.
const PROGRAMS: [u16; 2] = [2, 3];

/// What the header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Header {
    /// 1: 32 bits, 2: 64 bits.
    class: u8,
    /// 1: little-endian, 2: big-endian.
    data: u8,
    kind: u16,
    machine: u16,
}

impl Header {
    fn read(path: &Path) -> io::Result<Option<Header>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(20).read_to_end(&mut bytes)?;
        Ok(Header::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; 20] = bytes.first_chunk()?;
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        let word = |at: usize| match bytes[5] {
            2 => u16::from_be_bytes([bytes[at], bytes[at + 1]]),
            _ => u16::from_le_bytes([bytes[at], bytes[at + 1]]),
        };
        Some(Header { class: bytes[4], data: bytes[5], kind: word(16), machine: word(18) })
    }
}

/// Checks that `file` is a program for the machine that runs `own`.
///
/// # Errors
/// The reason why it is not.
pub fn check(file: &Path, own: &Path) -> Result<(), String> {
    let read = |path: &Path| {
        Header::read(path).map_err(|error| format!("failed to read {}: {error}", path.display()))
    };
    let own = read(own)?.ok_or("the running codexd is not an ELF program")?;
    let header = read(file)?.ok_or("it is not an ELF program")?;
    compare(header, own)
}

fn compare(header: Header, own: Header) -> Result<(), String> {
    if (header.class, header.data, header.machine) != (own.class, own.data, own.machine) {
        return Err(format!(
            "it is built for another machine (ELF machine {}, this one is {})",
            header.machine, own.machine
        ));
    }
    if PROGRAMS.contains(&header.kind) {
        Ok(())
    } else {
        Err("it is an ELF file but not a program".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, compare};

    const X86_64: Header = Header { class: 2, data: 1, kind: 3, machine: 62 };

    #[test]
    fn a_header_is_read_in_its_byte_order() {
        let mut bytes = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0";
        assert_eq!(Header::parse(&bytes), Some(X86_64));
        bytes[5] = 2;
        bytes[16..].copy_from_slice(&[0, 3, 0, 62]);
        assert_eq!(Header::parse(&bytes), Some(Header { data: 2, ..X86_64 }));
        assert_eq!(Header::parse(&bytes[..19]), None);
        assert_eq!(Header::parse(b"#!/bin/sh\nexec true\n"), None);
    }

    #[test]
    fn a_program_for_another_machine_and_an_object_file_are_refused() {
        assert!(compare(X86_64, X86_64).is_ok());
        assert!(compare(Header { kind: 2, ..X86_64 }, X86_64).is_ok());
        for other in
            [Header { machine: 183, ..X86_64 }, Header { class: 1, ..X86_64 }, Header { kind: 1, ..X86_64 }]
        {
            assert!(compare(other, X86_64).is_err(), "{other:?}");
        }
    }
}
