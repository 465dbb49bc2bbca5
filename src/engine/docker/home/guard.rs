//! The paths of an image that are mounted read-only when its root file system is writable.
//!
//! No engine lists a directory of an image without sending everything below it. So the paths are
//! the usual ones of file systems and those that the image's own description names: where its
//! layers put files, where its program is and its working directory.

use std::collections::BTreeSet;

use bollard::models::{ImageConfig, ImageHistoryResponseItem};

use crate::model::files::{TMP, normal};

/// Most paths that are inspected; each is a call to the engine.
const MAX_PATHS: usize = 96;
/// The usual directories of programs, settings or data, and below `/usr` and `/var` their
/// subdirectories as well, in case the home is there.
const USUAL: [&str; 40] = [
    "/app",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/usr",
    "/usr/bin",
    "/usr/games",
    "/usr/include",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libexec",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/etc",
    "/usr/local/lib",
    "/usr/local/sbin",
    "/usr/local/share",
    "/usr/sbin",
    "/usr/share",
    "/usr/src",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/opt",
    "/var/spool",
    "/var/tmp",
];

/// Whether the kernel or the engine fills a path: an image has nothing there.
pub(super) fn is_the_engines(path: &str) -> bool {
    ["/proc", "/sys", "/dev"]
        .iter()
        .any(|root| is_within(path, root))
}

/// Whether `path` is `root` or below it.
pub(super) fn is_within(path: &str, root: &str) -> bool {
    path.strip_prefix(root)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The paths of an image to mount read-only around a writable home, if they exist and are no links.
/// `home` has no links in it.
pub(super) fn candidates(
    home: &str,
    config: &ImageConfig,
    history: &[ImageHistoryResponseItem],
) -> Vec<String> {
    let volumes: Vec<String> = config
        .volumes
        .iter()
        .flatten()
        .map(|path| normal(path))
        .collect();
    let mut seen = BTreeSet::new();
    named(config, history)
        .chain(USUAL.map(str::to_owned))
        .filter_map(|path| outermost(&path, home))
        .filter(|path| !is_the_engines(path) && !is_within(path, TMP))
        // A volume is meant to be written to.
        .filter(|path| !volumes.contains(path))
        .filter(|path| seen.insert(path.clone()))
        .take(MAX_PATHS)
        .collect()
}

/// Every absolute path in the description of an image.
fn named<'a>(
    config: &'a ImageConfig,
    history: &'a [ImageHistoryResponseItem],
) -> impl Iterator<Item = String> + 'a {
    let steps = history.iter().map(|step| step.created_by.as_str());
    let program = config.entrypoint.iter().chain(&config.cmd).flatten();
    let texts = program
        .chain(config.env.iter().flatten())
        .chain(&config.working_dir)
        .map(String::as_str);
    texts
        .chain(steps)
        .flat_map(|text| {
            text.split(|c: char| c.is_whitespace() || "\"'`,;:=[](){}<>&|".contains(c))
        })
        .map(normal)
        .filter(|path| !path.is_empty())
}

/// The path, cut to the first directory that does not lead to the home; `None` for a path that
/// leads to the home, and for one within it.
fn outermost(path: &str, home: &str) -> Option<String> {
    let ends = path
        .match_indices('/')
        .skip(1)
        .map(|(at, _)| at)
        .chain([path.len()]);
    let cut = ends
        .map(|end| &path[..end])
        .find(|cut| !is_within(home, cut))?;
    (!is_within(cut, home)).then(|| cut.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(created_by: &str) -> ImageHistoryResponseItem {
        ImageHistoryResponseItem {
            created_by: created_by.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_path_is_cut_where_it_leaves_the_way_to_the_home() {
        for (path, home, cut) in [
            ("/usr/src/app", "/home/app", Some("/usr")),
            ("/home/other/x", "/home/app", Some("/home/other")),
            ("/home/apps", "/home/app", Some("/home/apps")),
            ("/home", "/home/app", None),
            ("/home/app/x", "/home/app", None),
            ("/home/app", "/home/app", None),
            ("/probe", "/home/app", Some("/probe")),
        ] {
            assert_eq!(outermost(path, home).as_deref(), cut, "{path}");
        }
    }

    #[test]
    fn what_the_image_names_and_what_is_usual_is_read_only_but_for_home_volumes_and_scratch() {
        let config = ImageConfig {
            entrypoint: Some(vec!["/srv2/bin/app".into()]),
            env: Some(vec!["PATH=/custom/bin:/usr/bin".into()]),
            volumes: Some(vec!["/data/".into()]),
            working_dir: Some("/home/app/src".into()),
            ..Default::default()
        };
        let history = [
            step("/bin/sh -c #(nop) COPY dir:1 in /work "),
            step("COPY [\"a\",\"/data\"] # buildkit"),
            step("RUN mkdir -p /tmp/x /proc/y && touch '/etc/z'"),
        ];
        let found = candidates("/home/app", &config, &history);
        for path in ["/srv2", "/custom", "/usr", "/work", "/etc", "/var", "/root"] {
            assert!(found.iter().any(|p| p == path), "{path} in {found:?}");
        }
        for path in ["/home", "/home/app", "/data", "/tmp", "/proc"] {
            assert!(
                !found.iter().any(|p| is_within(p, path)),
                "{path} in {found:?}"
            );
        }
        let once: BTreeSet<_> = found.iter().collect();
        assert_eq!(once.len(), found.len());
    }

    #[test]
    fn the_paths_of_a_long_description_are_bounded() {
        let steps: Vec<_> = (0..1000).map(|n| step(&format!("COPY x /d{n}"))).collect();
        assert_eq!(
            candidates("/root", &ImageConfig::default(), &steps).len(),
            MAX_PATHS
        );
    }
}
