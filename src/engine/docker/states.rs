//! States of containers that the client library does not know.
//!
//! Podman lists a container as `stopped` while it cleans up after the process, and one such state
//! makes the library refuse the whole list. The answer is then read again, with the state in
//! Docker's words.

use bollard::{errors::Error as ClientError, models::ContainerSummaryStateEnum};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The answer of a list or an inspection of containers, whatever their states are called.
pub(super) fn in_dockers_words<T: DeserializeOwned>(
    answer: Result<T, ClientError>,
) -> Result<T, ClientError> {
    match answer {
        Err(ClientError::JsonDataError {
            message,
            contents,
            column,
        }) => reread(&contents).ok_or(ClientError::JsonDataError {
            message,
            contents,
            column,
        }),
        other => other,
    }
}

fn reread<T: DeserializeOwned>(contents: &str) -> Option<T> {
    let mut answer: Value = serde_json::from_str(contents).ok()?;
    match &mut answer {
        Value::Array(all) => all.iter_mut().for_each(translate),
        one => translate(one),
    }
    serde_json::from_value(answer).ok()
}

/// A list has the state as text, an inspection as an object.
fn translate(container: &mut Value) {
    let state = match container.get_mut("State") {
        Some(Value::Object(state)) => state.get_mut("Status"),
        state => state,
    };
    if let Some(Value::String(state)) = state
        && state.parse::<ContainerSummaryStateEnum>().is_err()
    {
        let known = match state.as_str() {
            "stopped" => "exited",
            "configured" | "initialized" => "created",
            _ => "",
        };
        known.clone_into(state);
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::{
        ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
        ContainerSummaryStateEnum as Listed,
    };

    use super::*;

    fn refused<T: DeserializeOwned>(contents: &str) -> Result<T, ClientError> {
        serde_json::from_str(contents).map_err(|error| ClientError::JsonDataError {
            message: error.to_string(),
            contents: contents.to_owned(),
            column: error.column(),
        })
    }

    #[test]
    fn no_state_hides_the_others() {
        let list = r#"[{"Id":"a","State":"running"},{"Id":"b","State":"stopped"},{"Id":"c","State":"initialized"},{"Id":"d","State":"unheard-of"},{"Id":"e"}]"#;
        assert!(refused::<Vec<ContainerSummary>>(list).is_err());
        let read: Vec<ContainerSummary> = in_dockers_words(refused(list)).expect("a list");
        let states: Vec<_> = read.into_iter().map(|c| c.state).collect();
        let expected = [
            Listed::RUNNING,
            Listed::EXITED,
            Listed::CREATED,
            Listed::EMPTY,
        ];
        let expected = expected.map(Some).into_iter().chain([None]);
        assert_eq!(states, expected.collect::<Vec<_>>());

        let one = r#"{"Id":"a","State":{"Status":"stopped","Running":false}}"#;
        let read: ContainerInspectResponse = in_dockers_words(refused(one)).expect("one");
        let status = read.state.and_then(|state| state.status);
        assert_eq!(status, Some(ContainerStateStatusEnum::EXITED));
    }

    #[test]
    fn what_is_wrong_otherwise_stays_an_error() {
        let told = in_dockers_words(refused::<Vec<ContainerSummary>>("[{\"Id\":1}]"));
        let told = told.expect_err("no list").to_string();
        assert!(told.contains("invalid type"), "{told}");
    }
}
