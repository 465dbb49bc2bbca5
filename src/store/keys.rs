//! The keys of the store. Byte order is logical order: apps by organization and name, versions by
//! app and number.
//!
//! | first byte | rest | value |
//! |---|---|---|
//! | 0x01 | `format` | u32, big-endian |
//! | 0x02 | org 0x00 name | `AppRecord` |
//! | 0x03 | org 0x00 name 0x00 version (u32, big-endian) | `VersionRecord` |
//! | 0x04 | org 0x00 name | `SecretRecord` |
//! | 0x10 | image reference, by digest once the image is pulled | `PulledRecord` |
//! | 0x11 | org 0x00 name 0x00 time of creation (i64, big-endian) | empty: the volume to delete |
//!
//! Names contain no NUL, so the separators are unambiguous. Kind bytes are never reused.

use crate::model::{AppId, OrgName, secret::SecretName};

/// The first byte of app rows.
pub(super) const APPS: u8 = 0x02;
/// The first byte of version rows.
pub(super) const VERSIONS: u8 = 0x03;
/// The first byte of secrets' rows.
pub(super) const SECRETS: u8 = 0x04;

/// The first byte of rows of pulled images.
pub(super) const PULLED: u8 = 0x10;

/// The first byte of rows of volumes to delete.
pub(super) const VOLUMES_TO_DELETE: u8 = 0x11;

/// The key of an app.
pub(super) fn app(id: &AppId) -> Vec<u8> {
    with_kind(APPS, id)
}

/// The prefix of the keys of an app's versions.
pub(super) fn versions(id: &AppId) -> Vec<u8> {
    let mut key = with_kind(VERSIONS, id);
    key.push(0);
    key
}

/// The key of a version.
pub(super) fn version(id: &AppId, number: u32) -> Vec<u8> {
    let mut key = versions(id);
    key.extend(number.to_be_bytes());
    key
}

/// The app in the key of an app row.
pub(super) fn parse_app(key: &[u8]) -> Option<AppId> {
    parse_id(key.strip_prefix(&[APPS])?)
}

/// The app and number in the key of a version row.
pub(super) fn parse_version(key: &[u8]) -> Option<(AppId, u32)> {
    let (id, number) = key.strip_prefix(&[VERSIONS])?.split_last_chunk::<4>()?;
    let id = parse_id(id.strip_suffix(&[0])?)?;
    Some((id, u32::from_be_bytes(*number)))
}

fn parse_id(text: &[u8]) -> Option<AppId> {
    let text = std::str::from_utf8(text).ok()?;
    let (org, name) = text.split_once('\0')?;
    Some(AppId {
        org: org.parse().ok()?,
        name: name.parse().ok()?,
    })
}

/// The key of a secret.
pub(super) fn secret(org: &OrgName, name: &SecretName) -> Vec<u8> {
    let (org, name) = (org.as_str().as_bytes(), name.as_str().as_bytes());
    [&[SECRETS], org, &[0], name].concat()
}

/// The secret in the key of a secret row.
pub(super) fn parse_secret(key: &[u8]) -> Option<(OrgName, SecretName)> {
    let text = std::str::from_utf8(key.strip_prefix(&[SECRETS])?).ok()?;
    let (org, name) = text.split_once('\0')?;
    Some((org.parse().ok()?, name.parse().ok()?))
}

/// The key of a pulled image.
pub(super) fn pulled(key: &str) -> Vec<u8> {
    [&[PULLED], key.as_bytes()].concat()
}

/// The image reference in the key of a pulled image's row.
pub(super) fn parse_pulled(key: &[u8]) -> Option<String> {
    String::from_utf8(key.strip_prefix(&[PULLED])?.to_vec()).ok()
}

/// The key of a volume to delete; `since` is when its app was created.
pub(super) fn volume_to_delete(id: &AppId, since: i64) -> Vec<u8> {
    let mut key = with_kind(VOLUMES_TO_DELETE, id);
    key.push(0);
    key.extend(since.to_be_bytes());
    key
}

/// The app whose volume is to be deleted, and when that app was created.
pub(super) fn parse_volume_to_delete(key: &[u8]) -> Option<(AppId, i64)> {
    let (id, since) = key
        .strip_prefix(&[VOLUMES_TO_DELETE])?
        .split_last_chunk::<8>()?;
    let id = parse_id(id.strip_suffix(&[0])?)?;
    Some((id, i64::from_be_bytes(*since)))
}

fn with_kind(kind: u8, id: &AppId) -> Vec<u8> {
    let (org, name) = (id.org.as_str().as_bytes(), id.name.as_str().as_bytes());
    [&[kind], org, &[0], name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_keys_round_trip_and_versions_sort_by_number_within_their_app() {
        let a: AppId = "acme/a".parse().expect("valid");
        let ab: AppId = "acme/a.b".parse().expect("valid");
        assert_eq!(parse_app(&app(&a)), Some(a.clone()));
        let slot = (a.org.clone(), "Key_1".parse().expect("valid"));
        assert_eq!(parse_secret(&secret(&slot.0, &slot.1)), Some(slot));
        assert_eq!(parse_version(&version(&a, 256)), Some((a.clone(), 256)));
        let pulled_row = pulled("r.example/a:1");
        assert_eq!(parse_pulled(&pulled_row).as_deref(), Some("r.example/a:1"));
        assert_eq!(
            parse_volume_to_delete(&volume_to_delete(&ab, 256)),
            Some((ab.clone(), 256))
        );
        let sorted = [
            version(&a, 1),
            version(&a, 2),
            version(&a, 256),
            version(&ab, 1),
        ];
        assert!(sorted.is_sorted());
        assert!(!version(&ab, 1).starts_with(&versions(&a)));
    }
}
