//! This process's own program, as something that a container can run: the executable, and where it
//! is linked dynamically, the dynamic linker and the libraries that it runs with here.
//!
//! So every `ignite` has what a container of its own needs, and needs no image from anywhere.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ring::digest;

/// The executable in the container.
const EXECUTABLE: &str = "ignite";
/// Where the libraries are in the container.
const LIBRARIES: &str = "lib";
/// Read at a time.
const BLOCK: usize = 1 << 20;

/// The files of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Their paths in the container, without the leading slash, and where they are here.
    pub(super) files: Vec<(String, PathBuf)>,
    /// What runs the program in the container, before its arguments.
    pub(super) command: Vec<String>,
    /// A digest over their contents, in hexadecimal digits.
    pub(super) digest: String,
}

impl Program {
    /// Finds what this process was started from, and reads it through once.
    ///
    /// # Errors
    /// When the system does not show it, or a library has been replaced since.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let executable = PathBuf::from("/proc/self/exe");
        let own = fs::read_link(&executable)?;
        let maps = fs::read_to_string("/proc/self/maps")?;
        let libraries = libraries(&maps, &own);
        let mut files = vec![(EXECUTABLE.to_owned(), executable)];
        let mut command = Vec::new();
        for library in libraries {
            for name in names_of(&library)? {
                if command.is_empty() && is_linker(&name) {
                    // Called by its name it needs no path that the executable gives for it.
                    command = vec![
                        format!("/{LIBRARIES}/{name}"),
                        "--library-path".to_owned(),
                        format!("/{LIBRARIES}"),
                    ];
                }
                files.push((format!("{LIBRARIES}/{name}"), library.clone()));
            }
        }
        command.push(format!("/{EXECUTABLE}"));
        Ok(Self {
            digest: digest_of(&files)?,
            files,
            command,
        })
    }
}

/// The libraries among the files whose code is mapped into this process.
fn libraries(maps: &str, own: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in maps.lines() {
        // address, permissions, offset, device, inode, path
        let mut parts = line.splitn(6, ' ');
        let is_code = parts.nth(1).is_some_and(|mode| mode.contains('x'));
        let path = Path::new(parts.nth(3).unwrap_or_default().trim());
        if is_code && path.is_absolute() && path != own && !found.iter().any(|p| p == path) {
            found.push(path.to_owned());
        }
    }
    // Where the executable was replaced since it was started, the kernel says so after its path.
    let replaced = format!("{} (deleted)", own.display());
    found.retain(|path| path != Path::new(&replaced));
    found
}

/// The names by which programs know a library: its own, and those of links beside it, of which one
/// is usually what programs ask for.
fn names_of(library: &Path) -> io::Result<Vec<String>> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("the library {} is gone", library.display()),
        )
    };
    let real = fs::canonicalize(library).map_err(|_| missing())?;
    let (folder, own) = (real.parent(), real.file_name());
    let (folder, own) = folder.zip(own).ok_or_else(missing)?;
    let mut names = vec![own.to_string_lossy().into_owned()];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link && fs::canonicalize(entry.path()).is_ok_and(|target| target == real) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file of this name is a dynamic linker: glibc's, in its old and new names, or musl's.
fn is_linker(name: &str) -> bool {
    name.starts_with("ld-") || name.starts_with("ld.so") || name.starts_with("ld64.so")
}

fn digest_of(files: &[(String, PathBuf)]) -> io::Result<String> {
    let mut whole = digest::Context::new(&digest::SHA256);
    let mut block = vec![0; BLOCK];
    for (name, path) in files {
        whole.update(&(name.len() as u64).to_be_bytes());
        whole.update(name.as_bytes());
        let mut file = fs::File::open(path)?;
        whole.update(&file.metadata()?.len().to_be_bytes());
        loop {
            match io::Read::read(&mut file, &mut block)? {
                0 => break,
                read => whole.update(&block[..read]),
            }
        }
    }
    let digest = whole.finish();
    let digits = digest.as_ref().iter().take(8);
    Ok(digits.map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn code_that_is_mapped_from_other_files_is_of_libraries() {
        let maps = "\
55d0-55d1 r--p 00000000 fe:00 12 /opt/my tools/ignite
55d1-55d2 r-xp 00001000 fe:00 12 /opt/my tools/ignite
7f00-7f01 r--p 00000000 fe:00 31 /usr/lib/locale/locale-archive
7f01-7f02 r-xp 00000000 fe:00 30 /usr/lib/x86_64-linux-gnu/libc.so.6
7f02-7f03 r-xp 00000000 fe:00 30 /usr/lib/x86_64-linux-gnu/libc.so.6
7f03-7f04 rwxp 00000000 00:00 0
7f04-7f05 r-xp 00000000 fe:00 33                         /usr/lib/ld-linux-x86-64.so.2
7f05-7f06 r-xp 00000000 00:00 0                          [vdso]
";
        let found = libraries(maps, Path::new("/opt/my tools/ignite"));
        let expected = [
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib/ld-linux-x86-64.so.2",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        let replaced = maps.replace("/ignite", "/ignite (deleted)");
        let own = Path::new("/opt/my tools/ignite");
        assert_eq!(libraries(&replaced, own), expected.map(PathBuf::from));
    }

    #[test]
    fn the_files_of_this_process_run_without_any_others() {
        let program = Program::of_this_process().expect("it can be read");
        assert_eq!(program.digest.len(), 16);
        let folder = tempfile::tempdir().expect("a directory");
        for (name, path) in &program.files {
            let target = folder.path().join(name);
            fs::create_dir_all(target.parent().expect("it has one")).expect("made");
            fs::copy(path, target).expect("copied");
        }
        let mut command = program.command.iter().map(|word| {
            let here = folder.path().join(word.trim_start_matches('/'));
            if word.starts_with('/') {
                here.into_os_string()
            } else {
                word.into()
            }
        });
        let run = std::process::Command::new(command.next().expect("it has one"))
            .args(command)
            .args(["--list", "engine::docker::program"])
            .env_clear()
            .output();
        let run = run.expect("it starts");
        let listed = String::from_utf8_lossy(&run.stdout);
        assert!(listed.contains("the_files_of_this_process"), "{run:?}");
    }
}
