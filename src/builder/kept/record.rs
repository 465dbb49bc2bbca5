//! One line of a log's file.

use serde::{Deserialize, Serialize};

use crate::{
    builder::{Line, build::State},
    model::{Failure, Reason, code::BuiltImage},
};

/// A line of the log, or the end of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Record {
    /// A line of the log.
    Line {
        /// When it came, Unix milliseconds.
        at: i64,
        /// The line.
        line: String,
    },
    /// The build made an image.
    Image {
        /// When it ended, Unix milliseconds.
        at: i64,
        /// The image's name.
        image: String,
        /// Its content id.
        image_id: String,
    },
    /// The build failed.
    Failed {
        /// When it ended, Unix milliseconds.
        at: i64,
        /// The cause for programs.
        reason: String,
        /// The cause in words.
        message: String,
    },
}

/// A part of a log.
pub(super) enum Part {
    /// A line.
    Line(Line),
    /// How the build ended.
    End(State),
}

impl Record {
    /// How a build ended; `None` for one that has not.
    pub(super) fn of_end(state: &State) -> Option<Self> {
        let State::Ended(outcome, at) = state else {
            return None;
        };
        Some(match outcome {
            Ok(image) => Record::Image {
                at: *at,
                image: image.image_ref.clone(),
                image_id: image.image_id.clone(),
            },
            Err(failure) => Record::Failed {
                at: *at,
                reason: failure.reason.as_str().to_owned(),
                message: failure.message.clone(),
            },
        })
    }

    /// What the record stands for.
    pub(super) fn into_part(self) -> Part {
        match self {
            Record::Line { at, line } => Part::Line(Line {
                at_ms: at,
                text: line,
            }),
            Record::Image {
                at,
                image,
                image_id,
            } => Part::End(State::Ended(
                Ok(BuiltImage {
                    image_ref: image,
                    image_id,
                }),
                at,
            )),
            Record::Failed {
                at,
                reason,
                message,
            } => {
                // One of a newer version of ignite is a failure all the same.
                let reason = Reason::parse(&reason).unwrap_or(Reason::BuildFailed);
                Part::End(State::Ended(Err(Failure::new(reason, message)), at))
            }
        }
    }

    /// As it stands in the file, with the end of its line.
    pub(super) fn encode(&self) -> String {
        // Numbers and text, which always can be written.
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

/// The newest of these lines that take no more than `most` bytes in a file.
pub(super) fn encode_newest(lines: &[Line], most: u64) -> String {
    let mut left = most;
    let mut newest = Vec::new();
    for line in lines.iter().rev() {
        let record = Record::Line {
            at: line.at_ms,
            line: line.text.clone(),
        };
        let text = record.encode();
        match left.checked_sub(text.len() as u64) {
            Some(rest) => left = rest,
            None => break,
        }
        newest.push(text);
    }
    newest.reverse();
    newest.concat()
}
