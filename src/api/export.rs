//! Apps and executions as the API spells them, for exports.

use super::{convert, proto::v1};
use crate::{
    model::{App, Version},
    store::executions::Record,
};

/// An app as GetApp returns it, without its URL, which only a running server knows.
pub(crate) fn app(app: &App) -> v1::AppMeta {
    convert::app_to_wire(app, None, Vec::new())
}

/// An app's draft.
pub(crate) fn draft(app: &App) -> Option<v1::DraftInfo> {
    app.draft.as_ref().map(convert::draft_to_wire)
}

/// A version, and the app with the settings that were published with it.
pub(crate) fn version(app: &App, version: &Version) -> (v1::AppVersion, v1::AppMeta) {
    let published = App {
        settings: version.settings.clone(),
        active_version: version.number,
        ..app.clone()
    };
    (
        convert::version_to_wire(app, version),
        self::app(&published),
    )
}

/// An execution as GetExecution returns it to the app's own organization, with its result.
pub(crate) fn execution(record: &Record) -> v1::Execution {
    convert::execution_to_wire(record, true)
}
