//! Refusals of calls to the cloud platform's services that do not exist here, with an alternative.

use crate::model::{Failure, Reason};

/// A service of the cloud platform that does not exist here.
struct Elsewhere {
    /// Its gRPC paths start so.
    service: &'static str,
    /// Its HTTP paths, each with everything below it.
    paths: &'static [&'static str],
    /// What to do here.
    advice: &'static str,
}

const ELSEWHERE: [Elsewhere; 2] = [
    Elsewhere {
        service: "/dodil.ignite.v1.BuildService/",
        paths: &["/v1/ignite/builds"],
        advice: "the platform's BuildService builds images that belong to no app, and is not here: here code is built for an app. Save it with SaveDraft (`ignite draft save`), build it with CompileDraft, follow that with StreamCompileLogs, and keep credentials in secrets (CreateSecret); or build with `docker build` on this machine and name the image in code.image.prebuilt",
    },
    Elsewhere {
        service: "/dodil.ignite.v1.ModelService/",
        paths: &[
            "/v1/chat",
            "/v1/embeddings",
            "/v1/rerank",
            "/v1/infer",
            "/v1/audio",
            "/v1/models",
        ],
        advice: "the platform's ModelService answers for models that run in the cloud, and there are none here: let the app call the cloud, or any server with the same routes, at an address that it takes from its environment (MODEL_API_BASE, set by UpdateAppConfig or `ignite app update --env`)",
    },
];

impl Elsewhere {
    fn refusal(&self) -> Failure {
        Failure::new(Reason::Unimplemented, self.advice)
    }
}

/// The refusal of a gRPC call to a service that is not here; `None` for all others.
pub(super) fn of_grpc(path: &str) -> Option<Failure> {
    let found = ELSEWHERE.iter().find(|e| path.starts_with(e.service));
    found.map(Elsewhere::refusal)
}

/// The paths in HTTP of the services that are not here, and how calls there are refused.
pub(super) fn http_paths() -> impl Iterator<Item = (&'static str, Failure)> {
    let of = |e: &'static Elsewhere| e.paths.iter().map(|path| (*path, e.refusal()));
    ELSEWHERE.iter().flat_map(of)
}
