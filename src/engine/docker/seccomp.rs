//! The system calls that the processes of a container may make: a seccomp profile.
//!
//! The shipped profile (`seccomp.json`) is for organizations that do not trust each other. Its
//! facts, which call is allowed on which condition, are those of the default profile of the Moby
//! project (<https://github.com/moby/profiles>, Apache-2.0), so that a program that runs under a
//! current engine's default runs under it. It lacks:
//! - `io_uring_*`: its operations bypass filters, and most recent holes in the kernel were there.
//!   Engines before 25 allow it.
//! - `socket(AF_VSOCK)`: it has no network namespace, and leads from a virtual machine to its host.
//!   Engines before 23 allow it.
//! - `socketcall`, by which 32-bit programs can open any socket: a filter does not see its
//!   arguments. C libraries have done without it for ten years.
//! - `process_vm_readv`, `process_vm_writev`, `name_to_handle_at` and `pkey_*`, which the defaults
//!   of 20.10 refuse: the profile allows nothing that the default of an engine in use refuses.
//!
//! The engine ignores calls that its libraries do not know. A container that never runs has no
//! profile, and neither have build steps: the classic builder accepts none.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

/// Engines accept some megabytes in one request; real profiles have some kilobytes.
const MAX_BYTES: u64 = 256 << 10;
/// The possible actions on a call.
const ACTIONS: [&str; 9] = [
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];
const SHIPPED: &str = include_str!("seccomp.json");

/// A seccomp profile in the engine's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    json: Arc<str>,
    file: Arc<Path>,
}

impl Profile {
    /// The shipped profile; for an engine that reads it from disk it has to be in `file`.
    pub fn shipped(file: PathBuf) -> Self {
        let json = minify(SHIPPED).expect("the profile in the program is one");
        Self {
            json,
            file: file.into(),
        }
    }

    /// Writes the profile to its file.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self) -> io::Result<()> {
        fs::write(&self.file, self.json.as_bytes())
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |why: String| format!("{}: {why}", path.display());
        let mut text = String::new();
        fs::File::open(path)
            .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
            .map_err(|e| wrong(e.to_string()))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(wrong(format!("more than {} KiB", MAX_BYTES >> 10)));
        }
        let file = fs::canonicalize(path).map_err(|e| wrong(e.to_string()))?;
        let json = minify(&text).map_err(wrong)?;
        Ok(Self {
            json,
            file: file.into(),
        })
    }

    /// The profile as JSON.
    pub fn as_str(&self) -> &str {
        &self.json
    }

    /// Its file on this machine.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// The profile without white space, since every request for a container contains it.
fn minify(text: &str) -> Result<Arc<str>, String> {
    let profile: Value = serde_json::from_str(text).map_err(|e| format!("no JSON: {e}"))?;
    let known = |action: &Value| action.as_str().is_some_and(|a| ACTIONS.contains(&a));
    if !known(&profile["defaultAction"]) {
        return Err("no seccomp profile; it needs a defaultAction such as SCMP_ACT_ERRNO".into());
    }
    let rules = profile["syscalls"].as_array();
    let rules = rules.ok_or("no seccomp profile; it needs a list of syscalls")?;
    if let Some(rule) = rules.iter().find(|rule| !known(&rule["action"])) {
        return Err(format!(
            "{} is no action on a call; write one such as SCMP_ACT_ALLOW",
            rule["action"]
        ));
    }
    Ok(profile.to_string().into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The rules for each call.
    fn rules() -> BTreeMap<String, Vec<Value>> {
        let profile: Value = serde_json::from_str(SHIPPED).expect("JSON");
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let mut by_name = BTreeMap::<String, Vec<Value>>::new();
        for rule in profile["syscalls"].as_array().expect("a list") {
            for name in rule["names"].as_array().expect("names") {
                let name = name.as_str().expect("a name").to_owned();
                by_name.entry(name).or_default().push(rule.clone());
            }
        }
        by_name
    }

    #[test]
    fn the_shipped_profile_lets_nothing_through_that_leads_out() {
        let rules = rules();
        for name in rules.keys() {
            assert!(!name.starts_with("io_uring"), "{name}");
        }
        for never in [
            "socketcall",
            "pkey_alloc",
            "keyctl",
            "add_key",
            "request_key",
            "kexec_load",
        ] {
            assert_eq!(rules.get(never), None, "{never}");
        }
        // Only with a capability that permits as much anyway.
        for with in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "open_by_handle_at",
            "reboot",
        ] {
            for rule in &rules[with] {
                assert!(rule["includes"]["caps"].is_array(), "{with}: {rule}");
            }
        }
        const VSOCK: u64 = 40;
        for rule in &rules["socket"] {
            let args = rule["args"].as_array().expect("a condition");
            let value = args[0]["value"].as_u64().expect("a family");
            let lets_vsock = match args[0]["op"].as_str().expect("an operator") {
                "SCMP_CMP_LT" => VSOCK < value,
                "SCMP_CMP_EQ" => VSOCK == value,
                "SCMP_CMP_GT" => VSOCK > value,
                other => panic!("{other}"),
            };
            assert!(!lets_vsock && args[0]["index"] == 0, "{rule}");
        }
        // `clone` may make no new namespaces; `clone3`, whose arguments a filter does not see, is
        // reported as missing.
        for rule in &rules["clone"] {
            let masked = rule["args"][0]["op"] == "SCMP_CMP_MASKED_EQ";
            assert!(masked || rule["includes"]["caps"].is_array(), "{rule}");
        }
        let missing = |rule: &&Value| rule["errnoRet"] == 38;
        assert!(rules["clone3"].iter().any(|rule| missing(&rule)));
    }

    #[test]
    fn the_shipped_profile_is_complete() {
        let rules = rules();
        for name in [
            "read",
            "openat",
            "mmap",
            "execve",
            "futex",
            "epoll_wait",
            "clone",
            "socket",
            "statx",
            "rseq",
            "getrandom",
            "arch_prctl",
            "set_robust_list",
            "faccessat2",
        ] {
            assert!(rules.contains_key(name), "{name}");
        }
        assert!(minify(SHIPPED).expect("one").len() < SHIPPED.len());
    }

    #[test]
    fn a_file_that_is_no_profile_is_told() {
        for (text, word) in [
            ("", "no JSON"),
            ("[]", "defaultAction"),
            (
                r#"{"defaultAction":"ALLOW","syscalls":[]}"#,
                "defaultAction",
            ),
            (r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#, "list of syscalls"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"NO"}]}"#,
                "NO",
            ),
        ] {
            let why = minify(text).expect_err(text);
            assert!(why.contains(word), "{why}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("profile");
        assert!(Profile::read(&file).is_err());
        fs::write(&file, SHIPPED).expect("written");
        let read = Profile::read(&file).expect("a profile");
        assert_eq!(read.as_str(), Profile::shipped(file.clone()).as_str());
        fs::write(&file, vec![b' '; MAX_BYTES as usize + 1]).expect("written");
        let why = Profile::read(&file).expect_err("too long");
        assert!(why.contains("256 KiB"), "{why}");
    }
}
