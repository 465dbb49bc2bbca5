//! The README documents everything that a user can set or encounter.

use ignite::{config::Config, model::Reason};

const README: &str = include_str!("../../README.md");

#[test]
fn every_reason_has_its_row_with_both_codes() {
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.as_str(), reason.http_status());
        assert!(README.contains(&row), "no row {row:?}");
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
            README.contains(&format!("| `{name}` |")),
            "no row for {name}"
        );
    }
}
