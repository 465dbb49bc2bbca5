//! Which files a list of requirements reads beside itself.

/// Options that need no file of the source.
const PLAIN_OPTIONS: [&str; 12] = [
    "-i",
    "--index-url",
    "--extra-index-url",
    "--trusted-host",
    "--no-index",
    "--pre",
    "--prefer-binary",
    "--no-binary",
    "--only-binary",
    "--require-hashes",
    "--use-feature",
    "--hash",
];

/// Whether installing a list may read files of the source: other lists, folders, wheels. In doubt
/// it may, which costs an installation and breaks nothing.
pub(super) fn read_files(list: &str) -> bool {
    list.lines().any(|line| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return false;
        }
        if line.starts_with('-') {
            let option = line.split(['=', ' ', '\t']).next().unwrap_or_default();
            return !PLAIN_OPTIONS.contains(&option) || line.contains("file:");
        }
        // A name with versions and markers has no slash, except in the URL after `@`.
        let (name, from) = line.split_once('@').unwrap_or((line, ""));
        let from = from.trim();
        let remote = ["https://", "http://", "git+https://", "git+ssh://"];
        let from_elsewhere = from.is_empty() || remote.iter().any(|r| from.starts_with(r));
        let name = name.split([';', '#']).next().unwrap_or_default().trim();
        let is_path = name.starts_with('.') || name.contains(['/', '\\']) && !name.ends_with('\\');
        let is_archive = [".whl", ".zip", ".gz"]
            .iter()
            .any(|end| name.ends_with(end));
        let is_url = remote.iter().any(|r| line.starts_with(r));
        !is_url && (is_path || is_archive || !from_elsewhere)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls_stand_alone_and_paths_and_other_lists_do_not() {
        for alone in [
            "",
            "# -r other.txt\n\nflask",
            "flask==3.0 ; python_version < '3.12'  # a/comment",
            "requests[socks]>=2,<3",
            "pkg @ https://h.example/pkg-1.whl",
            "https://h.example/pkg-1.zip",
            "git+https://h.example/pkg@v1",
            "--index-url https://h.example/simple\nflask",
            "--only-binary=:all:",
            "flask==3.0 \\\n    --hash=sha256:00ff",
        ] {
            assert!(!read_files(alone), "{alone}");
        }
        for reads in [
            "-r other.txt",
            "-cconstraints.txt",
            "--constraint=c.txt",
            "-e .",
            "--find-links wheels",
            ".",
            "./pkg",
            "wheels/pkg-1.whl",
            "pkg-1-py3-none-any.whl",
            "pkg @ file:///app/pkg",
            "/app/pkg",
            "--index-url file:///app/simple",
            "flask\n  -r other.txt",
        ] {
            assert!(read_files(reads), "{reads}");
        }
    }
}
