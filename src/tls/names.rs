//! The names of a certificate, and whether another name is one of them.

/// Names in lower case; `*.name` stands for one label below a name.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Vec<String>);

impl Names {
    pub(super) fn new(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<_> = names.into_iter().map(|n| n.to_ascii_lowercase()).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, String> {
        self.0.iter()
    }

    /// Whether the name, in lower case, stands there.
    pub(super) fn have(&self, name: &str) -> bool {
        self.0.iter().any(|known| known == name)
    }

    /// Whether the name stands there, or a wildcard for it.
    pub(super) fn cover(&self, name: &str) -> bool {
        let below = |known: &String| {
            let parent = known.strip_prefix("*.");
            parent.is_some_and(|parent| {
                let label = name.strip_suffix(parent).and_then(|l| l.strip_suffix('.'));
                label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
            })
        };
        self.have(name) || self.0.iter().any(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_one_label() {
        let names = Names::new(["*.Apps.example".to_owned(), "one.example".to_owned()]);
        for (name, covered) in [
            ("a.apps.example", true),
            ("one.example", true),
            ("a.b.apps.example", false),
            ("apps.example", false),
            (".apps.example", false),
            ("xapps.example", false),
            ("a.one.example", false),
            ("", false),
        ] {
            assert_eq!(names.cover(name), covered, "{name}");
        }
        assert!(names.have("one.example") && !names.have("a.apps.example"));
    }
}
