//! How large a request may be, in gRPC and JSON alike.

use prost_reflect::MessageDescriptor;

use crate::model::{Failure, Reason};

/// What a JSON body may hold beside the payload: names, settings, the environment (at most 96 KiB,
/// more when escaped).
const JSON_SLACK_BYTES: usize = 256 * 1024;

/// Size limits of requests.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most bytes of a payload after base64 is decoded (`IGNITE_MAX_BODY_BYTES`).
    pub max_body_bytes: usize,
    /// Most bytes of code, also decoded (`IGNITE_MAX_CODE_BYTES`).
    pub max_code_bytes: usize,
    /// Most large messages that are read or written at a time (`IGNITE_DECODE_CONCURRENCY`).
    pub decode_concurrency: usize,
}

/// The bound on one method's requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    payload: usize,
    setting: &'static str,
}

impl Limits {
    /// Most bytes of a gRPC message, for `max_decoding_message_size` of the services: a lower
    /// figure there would refuse, with a worse message, what is allowed here.
    pub fn grpc_bytes(self) -> usize {
        let largest = self.max_body_bytes.max(self.max_code_bytes);
        largest.saturating_add(JSON_SLACK_BYTES)
    }

    /// Most bytes of any request in JSON.
    pub fn json_bytes(self) -> usize {
        let payload = self.max_body_bytes.max(self.max_code_bytes);
        let setting = "";
        Bound { payload, setting }.json_bytes()
    }

    /// Checks a payload's size; the same for gRPC and JSON.
    ///
    /// # Errors
    /// BODY_TOO_LARGE, with the limit and its setting.
    pub fn check_body(self, len: usize) -> Result<(), Failure> {
        if len <= self.max_body_bytes {
            return Ok(());
        }
        Err(Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the body has {len} bytes; the limit is {} (IGNITE_MAX_BODY_BYTES)",
                self.max_body_bytes
            ),
        ))
    }

    /// Checks the size of code; the same for gRPC and JSON.
    ///
    /// # Errors
    /// As [`Limits::check_body`].
    pub fn check_code(self, len: usize) -> Result<(), Failure> {
        if len <= self.max_code_bytes {
            return Ok(());
        }
        Err(Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the code has {len} bytes; leave out what the build does not need: the limit is {} (IGNITE_MAX_CODE_BYTES)",
                self.max_code_bytes
            ),
        ))
    }

    /// The failure of a gRPC message that is over [`Limits::grpc_bytes`].
    pub fn message_too_large(self) -> Failure {
        Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the message is over {} bytes; the limits are {} bytes for a payload \
                 (IGNITE_MAX_BODY_BYTES) and {} for code (IGNITE_MAX_CODE_BYTES)",
                self.grpc_bytes(),
                self.max_body_bytes,
                self.max_code_bytes
            ),
        )
    }

    /// The bound on requests with this input message.
    pub(super) fn bound(self, input: &MessageDescriptor) -> Bound {
        match input.get_field_by_name("code") {
            Some(_) => Bound {
                payload: self.max_code_bytes,
                setting: "IGNITE_MAX_CODE_BYTES",
            },
            None => Bound {
                payload: self.max_body_bytes,
                setting: "IGNITE_MAX_BODY_BYTES",
            },
        }
    }
}

impl Bound {
    /// Most bytes of a JSON body: the payload grown by base64, and 256 KiB for the rest.
    pub(super) fn json_bytes(self) -> usize {
        self.message_bytes()
            .saturating_add(self.payload.div_ceil(3))
    }

    /// Most bytes of the decoded message.
    pub(super) fn message_bytes(self) -> usize {
        self.payload.saturating_add(JSON_SLACK_BYTES)
    }

    /// The failure of a JSON body that is over [`Bound::json_bytes`].
    pub(super) fn too_large(self) -> Failure {
        Failure::new(
            Reason::BodyTooLarge,
            format!(
                "the JSON body is over {} bytes, which is what a payload of {} bytes ({}) takes in \
                 base64",
                self.json_bytes(),
                self.payload,
                self.setting
            ),
        )
    }
}
