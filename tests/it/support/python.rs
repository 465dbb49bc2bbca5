//! Python with packages of its index, in environments that are made once.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The Python of the environment of this name, with these packages in it; as it was made when it
/// has them.
pub(crate) fn with(name: &str, packages: &[&str]) -> PathBuf {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/python-{name}"));
    let python = venv.join("bin/python");
    // Written last, so that an environment that was cut off is made anew.
    let made = venv.join("made");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&made).is_ok_and(|found| found == wanted) {
        return python;
    }
    let remedy = "this test needs Python 3 with venv and the Python package index: run \
                  scripts/setup.sh as root, or install python3-venv";
    let run = |command: &mut Command| {
        let output = command.output().unwrap_or_else(|e| panic!("{remedy}: {e}"));
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{remedy}: {text}");
    };
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&venv));
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ];
    run(Command::new(&python)
        .args(pip)
        .arg("--only-binary=:all:")
        .args(packages));
    std::fs::write(made, wanted).expect("written");
    python
}
