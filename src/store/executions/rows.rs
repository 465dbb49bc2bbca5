//! The rows of an execution segment: keys, records, and the mapping to the model.
//!
//! | first byte | rest | value |
//! |---|---|---|
//! | 0x01 | `format` | u32, big-endian |
//! | 0x02 | id | `RequestRecord`, written once at acceptance |
//! | 0x03 | id | `LiveRecord`, from its first attempt until it has ended |
//! | 0x04 | app 0x00 id | `EndRecord`, written once at its end |
//! | 0x05 | id | `ResultRecord`, written once at its end when there was a response |
//! | 0x06 | app 0x00 idempotency key | `KeyRecord` |
//! | 0x07 | app 0x00 minute (u32) | three u32: executions that completed, failed, timed out |
//!
//! An id is the 16 bytes of its ULID, so byte order is the order of acceptance. Numbers are
//! big-endian. An app is `org/name`, which contains no NUL. Kind bytes are never reused.

use bytes::Bytes;
use prost::Message;

use super::StoredBody;
use crate::model::{
    AppId, ExecutionId, OrgName, Tier,
    execution::{Identity, State, Status},
};

/// The format of the rows; raised when older binaries could not read them.
pub(super) const FORMAT: u32 = 1;

pub(super) const REQUESTS: u8 = 0x02;
pub(super) const LIVE: u8 = 0x03;
pub(super) const ENDS: u8 = 0x04;
pub(super) const RESULTS: u8 = 0x05;
pub(super) const KEYS: u8 = 0x06;
pub(super) const COUNTS: u8 = 0x07;

/// The key of an execution's row of one kind.
pub(super) fn by_id(kind: u8, id: ExecutionId) -> [u8; 17] {
    let mut key = [kind; 17];
    key[1..].copy_from_slice(&id.0.to_bytes());
    key
}

/// The id at the end of a key.
pub(super) fn id_of(key: &[u8]) -> Option<ExecutionId> {
    let bytes = key.get(key.len().checked_sub(16)?..)?.try_into().ok()?;
    Some(ExecutionId(ulid::Ulid::from_bytes(bytes)))
}

/// The prefix of an app's rows of one kind.
pub(super) fn of_app(kind: u8, app: &AppId) -> Vec<u8> {
    let (org, name) = (app.org.as_str().as_bytes(), app.name.as_str().as_bytes());
    [&[kind], org, b"/", name, &[0]].concat()
}

/// The app that a key names between its kind and the NUL.
pub(super) fn app_of(key: &[u8]) -> Option<AppId> {
    let text = std::str::from_utf8(key.get(1..)?.split(|b| *b == 0).next()?).ok()?;
    text.parse().ok()
}

pub(super) fn end(app: &AppId, id: ExecutionId) -> Vec<u8> {
    let mut key = of_app(ENDS, app);
    key.extend(id.0.to_bytes());
    key
}

/// The key of an idempotency row. Callers from outside the app's organization, who may invoke a
/// public app, have keys apart from the owner's and from each other's.
pub(super) fn idempotency(app: &AppId, submitters: &[OrgName], text: &str) -> Vec<u8> {
    let mut key = of_app(KEYS, app);
    if !submitters.contains(&app.org) {
        let mut of: Vec<&str> = submitters.iter().map(OrgName::as_str).collect();
        of.sort_unstable();
        key.extend(of.join(",").as_bytes());
        // A header cannot contain a NUL.
        key.push(0);
    }
    key.extend(text.as_bytes());
    key
}

pub(super) fn count(app: &AppId, minute: u32) -> Vec<u8> {
    let mut key = of_app(COUNTS, app);
    key.extend(minute.to_be_bytes());
    key
}

/// The minute at the end of a counts key.
pub(super) fn minute_of(key: &[u8]) -> Option<u32> {
    let bytes = key.get(key.len().checked_sub(4)?..)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HeaderRecord {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// A body: in the row, or in a file of the segment.
#[derive(Clone, PartialEq, Message)]
pub(super) struct BodyRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) inline: Bytes,
    /// The file's name; empty when the body is inline.
    #[prost(string, tag = "2")]
    pub(super) file: String,
    #[prost(uint64, tag = "3")]
    pub(super) len: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestRecord {
    #[prost(string, tag = "1")]
    pub(super) app: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) submitters: Vec<String>,
    #[prost(string, tag = "3")]
    pub(super) method: String,
    #[prost(string, tag = "4")]
    pub(super) target: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) headers: Vec<HeaderRecord>,
    #[prost(message, optional, tag = "6")]
    pub(super) body: Option<BodyRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LiveRecord {
    #[prost(uint32, tag = "1")]
    pub(super) attempt: u32,
    #[prost(uint32, tag = "2")]
    pub(super) version: u32,
    #[prost(uint32, tag = "3")]
    pub(super) tier: u32,
    #[prost(int64, tag = "4")]
    pub(super) started_at_ms: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndRecord {
    #[prost(uint32, tag = "1")]
    pub(super) status: u32,
    #[prost(uint32, tag = "2")]
    pub(super) attempt: u32,
    #[prost(uint32, tag = "3")]
    pub(super) version: u32,
    #[prost(uint32, tag = "4")]
    pub(super) tier: u32,
    #[prost(int64, tag = "5")]
    pub(super) started_at_ms: i64,
    #[prost(int64, tag = "6")]
    pub(super) completed_at_ms: i64,
    #[prost(uint32, tag = "7")]
    pub(super) status_code: u32,
    #[prost(int64, tag = "8")]
    pub(super) execution_ms: i64,
    #[prost(uint64, tag = "9")]
    pub(super) result_bytes: u64,
    #[prost(string, tag = "10")]
    pub(super) reason: String,
    #[prost(string, tag = "11")]
    pub(super) error: String,
    #[prost(string, tag = "12")]
    pub(super) bare_error: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResultRecord {
    #[prost(message, repeated, tag = "1")]
    pub(super) headers: Vec<HeaderRecord>,
    #[prost(message, optional, tag = "2")]
    pub(super) body: Option<BodyRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyRecord {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) digest: Vec<u8>,
}

impl KeyRecord {
    pub(super) fn id(&self) -> Option<ExecutionId> {
        let bytes = self.id.as_slice().try_into().ok()?;
        Some(ExecutionId(ulid::Ulid::from_bytes(bytes)))
    }
}

/// The record of a body: its bytes inline, or the name of its file.
pub(super) fn body_record(body: &StoredBody, file: &str) -> BodyRecord {
    match body {
        StoredBody::Inline(bytes) => BodyRecord {
            inline: bytes.clone(),
            file: String::new(),
            len: bytes.len() as u64,
        },
        StoredBody::File(spooled) => BodyRecord {
            inline: Bytes::new(),
            file: file.to_owned(),
            len: spooled.len(),
        },
    }
}

pub(super) fn headers(headers: &[(String, Bytes)]) -> Vec<HeaderRecord> {
    let record = |(name, value): &(String, Bytes)| HeaderRecord {
        name: name.clone(),
        value: value.clone(),
    };
    headers.iter().map(record).collect()
}

pub(super) fn identity(id: ExecutionId, r: &RequestRecord) -> Option<Identity> {
    let submitters = r.submitters.iter().filter_map(|o| o.parse().ok()).collect();
    Some(Identity {
        id,
        app: r.app.parse().ok()?,
        submitters,
    })
}

pub(super) fn live_record(s: &State) -> LiveRecord {
    LiveRecord {
        attempt: s.attempt,
        version: s.version,
        tier: tier_number(s.tier),
        started_at_ms: s.started_at_ms,
    }
}

pub(super) fn live_state(r: &LiveRecord) -> State {
    State {
        status: if r.attempt == 0 {
            Status::Pending
        } else {
            Status::Running
        },
        attempt: r.attempt,
        version: r.version,
        tier: tier(r.tier),
        started_at_ms: r.started_at_ms,
        ..State::default()
    }
}

pub(super) fn end_record(s: &State) -> EndRecord {
    EndRecord {
        status: s.status as u32,
        attempt: s.attempt,
        version: s.version,
        tier: tier_number(s.tier),
        started_at_ms: s.started_at_ms,
        completed_at_ms: s.completed_at_ms,
        status_code: s.status_code.into(),
        execution_ms: s.execution_ms,
        result_bytes: s.result_bytes,
        reason: s.reason.clone(),
        error: s.error.clone(),
        bare_error: s.bare_error.clone(),
    }
}

pub(super) fn end_state(r: EndRecord) -> Option<State> {
    Some(State {
        status: Status::from_number(r.status).filter(|s| s.is_terminal())?,
        attempt: r.attempt,
        version: r.version,
        tier: tier(r.tier),
        started_at_ms: r.started_at_ms,
        completed_at_ms: r.completed_at_ms,
        status_code: u16::try_from(r.status_code).ok()?,
        execution_ms: r.execution_ms,
        result_bytes: r.result_bytes,
        reason: r.reason,
        error: r.error,
        bare_error: r.bare_error,
    })
}

fn tier_number(tier: Tier) -> u32 {
    match tier {
        Tier::Medium => 0,
        Tier::Small => 1,
        Tier::Large => 2,
        Tier::XLarge => 3,
    }
}

fn tier(number: u32) -> Tier {
    match number {
        1 => Tier::Small,
        2 => Tier::Large,
        3 => Tier::XLarge,
        _ => Tier::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_and_sort_by_app_and_acceptance() {
        let (a, ab): (AppId, AppId) = (
            "o/a".parse().expect("valid"),
            "o/a.b".parse().expect("valid"),
        );
        let at = |ms| ExecutionId(ulid::Ulid::from_parts(ms, 7));
        let key = end(&a, at(5));
        assert_eq!((id_of(&key), app_of(&key)), (Some(at(5)), Some(a.clone())));
        assert_eq!(minute_of(&count(&a, 77)), Some(77));
        assert_eq!(id_of(&by_id(LIVE, at(9))), Some(at(9)));
        assert!([end(&a, at(1)), end(&a, at(256)), end(&ab, at(1))].is_sorted());
        assert!(!end(&ab, at(1)).starts_with(&of_app(ENDS, &a)));
        assert!(count(&a, 255) < count(&a, 256));
    }

    #[test]
    fn every_field_of_a_state_survives_its_record() {
        let state = State {
            status: Status::TimedOut,
            attempt: 3,
            version: 4,
            tier: Tier::XLarge,
            started_at_ms: 5,
            completed_at_ms: 6,
            status_code: 503,
            execution_ms: 7,
            result_bytes: 8,
            reason: "r".into(),
            error: "e".into(),
            bare_error: "b".into(),
        };
        assert_eq!(end_state(end_record(&state)), Some(state));
        let running = State {
            status: Status::Running,
            attempt: 2,
            version: 1,
            started_at_ms: 9,
            ..State::default()
        };
        assert_eq!(live_state(&live_record(&running)), running);
        assert_eq!(
            live_state(&live_record(&State::default())),
            State::default()
        );
    }
}
