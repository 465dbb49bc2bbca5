//! The holder: an idle process that keeps a network namespace alive.
//!
//! Its program is written here byte by byte, an ELF file of some 150 bytes that waits in the kernel
//! forever. Every `ignite` binary therefore has it, for the engine's architecture whatever its own
//! is, and needs no compiler or foreign image. It is imported as an image with that file and
//! nothing else.

use std::{path::Path, sync::Arc};

use futures_util::stream;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tar::EntryType;
use tokio::sync::OnceCell;

use super::{Error, archive, client::Client, own_image::OwnImage};

/// The holder's repository on the engine; the tag is a digest of the program.
pub(super) const REPOSITORY: &str = "ignite-holder";
/// What the engine is asked to do for the image, as a verb.
const IMPORT: &str = "import the holder's image";
/// The path of the program in the image.
pub(super) const PROGRAM: &str = "/hold";

/// `pause()` in a loop: it returns only after a handled signal.
const X86_64: [u8; 9] = [
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, 34 (pause)
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the beginning
];

/// `ppoll(NULL, 0, NULL, NULL, 0)` in a loop; this architecture has no `pause`.
const AARCH64: [u32; 8] = [
    0xd280_0000, // mov x0, 0
    0xd280_0001, // mov x1, 0
    0xd280_0002, // mov x2, 0
    0xd280_0003, // mov x3, 0
    0xd280_0004, // mov x4, 0
    0xd280_0928, // mov x8, 73 (ppoll)
    0xd400_0001, // svc 0
    0x17ff_fff9, // b to the beginning
];

/// The holder's image on the engine: made on first use, and again after it was removed.
#[derive(Debug, Default)]
pub(super) struct HolderImage(Mutex<Arc<OnceCell<String>>>);

impl HolderImage {
    /// The image's reference; the engine has it, or had it a moment ago.
    ///
    /// # Errors
    /// For an architecture without a program, or the engine's error.
    pub(super) async fn ensure(
        &self,
        client: &Client,
        architecture: &str,
    ) -> Result<String, Error> {
        let known = Arc::clone(&self.0.lock());
        known
            .get_or_try_init(|| find_or_import(client, architecture))
            .await
            .cloned()
    }

    /// Whether a container could not be made because the image is missing; the next
    /// [`Self::ensure`] then makes it again. The image is unused most of the time, so `docker image
    /// prune -a` removes it.
    pub(super) fn is_gone(&self, err: &Error) -> bool {
        let gone = matches!(
            err,
            Error::Refused { status: 404, message, .. } if message.contains(REPOSITORY)
        );
        if gone {
            tracing::info!("The holder's image was removed; making it again");
            *self.0.lock() = Arc::default();
        }
        gone
    }
}

async fn find_or_import(client: &Client, architecture: &str) -> Result<String, Error> {
    let program = program(architecture).ok_or_else(|| Error::Refused {
        call: "keep a network for a prepared replica",
        status: 0,
        message: format!(
            "there is no holder for the architecture {architecture:?}, only for x86_64 and aarch64"
        ),
    })?;
    let digest = Sha256::digest(&program);
    let tag: String = digest[..6].iter().map(|b| format!("{b:02x}")).collect();
    let image = OwnImage {
        repository: REPOSITORY,
        tag,
        call: IMPORT,
    };
    let path = Path::new(PROGRAM.trim_start_matches('/'));
    let archive = archive::of_one(IMPORT, EntryType::Regular, path, 0o755, &program)?;
    let archive = stream::iter([Ok(archive.into())]);
    image.ensure(client, client.limit(), archive).await?;
    Ok(image.reference())
}

/// The program for an architecture as `uname -m` names it.
fn program(architecture: &str) -> Option<Vec<u8>> {
    let (machine, code): (u16, Vec<u8>) = match architecture {
        "x86_64" | "amd64" => (62, X86_64.to_vec()),
        "aarch64" | "arm64" => (183, AARCH64.iter().flat_map(|i| i.to_le_bytes()).collect()),
        _ => return None,
    };
    Some(elf(machine, &code))
}

/// A static executable of one loadable segment: both headers, then the code.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut out = Vec::new();
    // ELF, 64 bits, little endian, version 1.
    out.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    out.extend([0; 8]);
    let half = |out: &mut Vec<u8>, n: u16| out.extend(n.to_le_bytes());
    let word = |out: &mut Vec<u8>, n: u32| out.extend(n.to_le_bytes());
    let long = |out: &mut Vec<u8>, n: u64| out.extend(n.to_le_bytes());
    half(&mut out, 2); // executable
    half(&mut out, machine);
    word(&mut out, 1);
    long(&mut out, BASE + HEADERS); // entry
    long(&mut out, 64); // program headers
    long(&mut out, 0); // no sections
    word(&mut out, 0);
    half(&mut out, 64);
    half(&mut out, 56);
    half(&mut out, 1); // one program header
    half(&mut out, 64);
    half(&mut out, 0);
    half(&mut out, 0);
    word(&mut out, 1); // to be loaded,
    word(&mut out, 5); // read and executed,
    long(&mut out, 0); // from the beginning of the file
    long(&mut out, BASE);
    long(&mut out, BASE);
    long(&mut out, size);
    long(&mut out, size);
    long(&mut out, 0x1_0000); // alignment: the largest page of both architectures
    out.extend(code);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_a_small_static_executable() {
        for (name, machine) in [("x86_64", 62), ("aarch64", 183)] {
            let elf = program(name).expect("known");
            assert!(elf.len() < 200);
            assert_eq!(&elf[..4], b"\x7fELF");
            assert_eq!(u16::from_le_bytes([elf[18], elf[19]]), machine);
            let entry = u64::from_le_bytes(elf[24..32].try_into().expect("eight"));
            assert_eq!(entry, 0x40_0078, "right behind the headers");
        }
        assert!(program("riscv64").is_none());
    }

    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[test]
    fn the_program_runs_and_waits() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hold");
        std::fs::write(&path, program(std::env::consts::ARCH).expect("known")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        let mut child = std::process::Command::new(&path)
            .spawn()
            .expect("it starts");
        // The kernel names the state of a waiting process.
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()));
            stat.ok()?
                .rsplit_once(") ")
                .map(|(_, rest)| rest.chars().next())?
        };
        let begun = std::time::SystemTime::now();
        while state() != Some('S') {
            assert!(
                begun.elapsed().expect("forward").as_secs() < 120,
                "{:?}",
                state()
            );
            std::thread::yield_now();
        }
        child.kill().expect("it runs");
        let status = child.wait().expect("it ends");
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }
}
