//! Test runs of a draft or a version: an envelope in, the whole response out.

use bytes::Bytes;
use http::{HeaderValue, header};
use tonic::Request;

use super::{Compute, ForOwner as _, Refusal, invoke::outbound, logs};
use crate::{
    api::proto::v1,
    model::{AppId, host},
    test_runs::Outcome,
};

impl Compute {
    pub(super) async fn run_draft(
        &self,
        request: Request<v1::TestDraftRequest>,
    ) -> Result<v1::TestDraftResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let r = request.into_inner();
        Ok(v1::TestDraftResponse {
            result: Some(self.test(id, None, r.http, r.body).await?),
        })
    }

    pub(super) async fn run_version(
        &self,
        request: Request<v1::TestAppVersionRequest>,
    ) -> Result<v1::TestAppVersionResponse, Refusal> {
        let r = request.get_ref();
        let id = self.owned(&request, &r.organization_name, &r.app_name)?;
        let r = request.into_inner();
        Ok(v1::TestAppVersionResponse {
            result: Some(self.test(id, Some(r.version), r.http, r.body).await?),
        })
    }

    async fn test(
        &self,
        app: AppId,
        version: Option<u32>,
        http: Option<v1::HttpContext>,
        body: Bytes,
    ) -> Result<v1::TestResult, Refusal> {
        let envelope = v1::InvokeRequest {
            http,
            body,
            ..Default::default()
        };
        let mut outbound = outbound(envelope, self.limits)?;
        let known = self.apps.get(&app).for_owner()?;
        let label = host::label(&app, known.settings.ports()[0]);
        if let Ok(host) = HeaderValue::from_str(&format!("{label}.{}", self.urls.base_domain)) {
            outbound.headers_mut().insert(header::HOST, host);
        }
        let outcome = self
            .test_runs
            .run(app, version, outbound)
            .await
            .for_owner()?;
        Ok(to_wire(outcome))
    }
}

fn to_wire(outcome: Outcome) -> v1::TestResult {
    v1::TestResult {
        status_code: outcome.status.into(),
        response_headers: outcome.headers.into_iter().collect(),
        body: outcome.body,
        duration_ms: i64::try_from(outcome.took.as_millis()).unwrap_or(i64::MAX),
        logs: outcome.log.into_iter().map(logs::to_wire).collect(),
    }
}
