//! The manual documents everything that a user can set or encounter.

use ignite::{config::Config, model::Reason};

const ERRORS: &str = include_str!("../../src/docs/errors.md");
const SETTINGS: &str = include_str!("../../src/docs/settings.md");

#[test]
fn every_reason_has_its_row_with_both_codes() {
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.as_str(), reason.http_status());
        assert!(ERRORS.contains(&row), "no row {row:?}");
    }
}

#[test]
fn every_setting_has_its_row() {
    let settings: toml::Table = Config::defaults("/data".into())
        .to_toml()
        .parse()
        .expect("the dumped configuration is TOML");
    for name in settings.keys() {
        assert!(
            SETTINGS.contains(&format!("| `{name}` |")),
            "no row for {name}"
        );
    }
}
