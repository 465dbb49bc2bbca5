//! Calls of the contract's methods by name, over gRPC or JSON, with the same JSON in and out.
//!
//! Requests are built from the descriptors: over JSON by the method's annotation, over gRPC as
//! a dynamic message. So one test covers both transports, independent of generated code.

use bytes::{Buf, BufMut, Bytes};
use hyper::{HeaderMap, Method, StatusCode};
use ignite::api::proto::{pool, rpc};
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, ReflectMessage, ServiceDescriptor};
use serde_json::{Value, json};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use super::{grpc, ignite::Ignite};

/// The two transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Grpc,
    Json,
}

/// Both, to loop over.
pub(crate) const BOTH: [Via; 2] = [Via::Grpc, Via::Json];

/// A refusal as the transport reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The number of the gRPC code.
    pub(crate) code: i32,
    /// `x-ignite-error`.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The fields of the violations.
    pub(crate) fields: Vec<String>,
    /// The HTTP status, over JSON.
    pub(crate) http: Option<StatusCode>,
    pub(crate) challenge: Option<String>,
}

impl Refusal {
    /// What a gRPC status says.
    pub(crate) fn of_status(status: &Status) -> Self {
        let headers: HeaderMap = status.metadata().clone().into_headers();
        let details = rpc::Status::decode(status.details()).expect("details decode");
        let mut fields = Vec::new();
        let mut reason = String::new();
        for any in details.details {
            if any.type_url.ends_with("google.rpc.BadRequest") {
                let bad = rpc::BadRequest::decode(&any.value[..]).expect("a BadRequest");
                fields = bad.field_violations.into_iter().map(|v| v.field).collect();
            } else if any.type_url.ends_with("google.rpc.ErrorInfo") {
                let info = rpc::ErrorInfo::decode(&any.value[..]).expect("an ErrorInfo");
                reason = info.reason;
            }
        }
        assert_eq!(
            text(&headers, "x-ignite-error").unwrap_or_default(),
            reason,
            "metadata and details agree"
        );
        Self {
            code: status.code() as i32,
            reason,
            message: status.message().to_owned(),
            fields,
            http: None,
            challenge: text(&headers, "www-authenticate"),
        }
    }

    /// What an HTTP answer says.
    pub(crate) fn of_http(status: StatusCode, headers: &HeaderMap, body: &Value) -> Self {
        let details = body["details"].as_array().cloned().unwrap_or_default();
        let of = |kind: &str| {
            let kind = format!("type.googleapis.com/google.rpc.{kind}");
            details
                .iter()
                .find(|d| d["@type"] == kind.as_str())
                .cloned()
        };
        let reason = text(headers, "x-ignite-error").unwrap_or_default();
        if let Some(info) = of("ErrorInfo") {
            assert_eq!(info["reason"], reason.as_str(), "header and details agree");
        }
        let violations = of("BadRequest").map(|b| b["fieldViolations"].clone());
        let fields = violations.iter().flat_map(|v| v.as_array()).flatten();
        Self {
            code: i32::try_from(body["code"].as_i64().expect("a code")).expect("small"),
            reason,
            message: body["message"].as_str().expect("a message").to_owned(),
            fields: fields
                .map(|v| v["field"].as_str().unwrap_or_default().to_owned())
                .collect(),
            http: Some(status),
            challenge: text(headers, "www-authenticate"),
        }
    }

    /// Checks both codes and the reason, and that the message has all of these words.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, http: u16, reason: &str, words: &[&str]) {
        assert_eq!(
            (self.code, self.reason.as_str()),
            (code, reason),
            "{self:?}"
        );
        if let Some(status) = self.http {
            assert_eq!(status, http, "{self:?}");
        }
        for word in words {
            assert!(self.message.contains(word), "no {word:?} in {self:?}");
        }
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(value.to_str().expect("header text").to_owned())
}

/// A method of any of the services.
pub(crate) fn method(name: &str) -> MethodDescriptor {
    let ours = |service: &ServiceDescriptor| service.package_name().starts_with("dodil.ignite.");
    pool()
        .services()
        .filter(ours)
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .find(|method| method.name() == name)
        .unwrap_or_else(|| panic!("the contract has no {name}"))
}

/// Where HTTP has a method: each verb and path template, and whether the body is the message.
pub(crate) fn bindings(method: &MethodDescriptor) -> Vec<(Method, String, bool)> {
    let http = pool()
        .get_extension_by_name("google.api.http")
        .expect("the extension");
    let options = method.options();
    let rule = options.get_extension(&http);
    let rule = rule.as_message().expect("a rule");
    let more = rule
        .get_field_by_name("additional_bindings")
        .expect("a field");
    let more = more.as_list().expect("a list");
    std::iter::once(rule)
        .chain(more.iter().filter_map(|rule| rule.as_message()))
        .map(binding)
        .collect()
}

fn binding(rule: &DynamicMessage) -> (Method, String, bool) {
    let text = |name: &str| {
        let value = rule.get_field_by_name(name).expect("a field of HttpRule");
        value.as_str().unwrap_or_default().to_owned()
    };
    let verb = ["get", "put", "post", "delete", "patch"]
        .into_iter()
        .find(|verb| rule.has_field_by_name(verb))
        .expect("a verb");
    let method = verb.to_uppercase().parse().expect("a method");
    (method, text(verb), text("body") == "*")
}

impl Ignite {
    /// Calls a unary method; an empty token is not sent.
    pub(crate) async fn call(
        &self,
        via: Via,
        name: &str,
        token: &str,
        fields: &Value,
    ) -> Result<Value, Refusal> {
        match via {
            Via::Grpc => self.call_grpc(&method(name), token, fields).await,
            Via::Json => self.call_json(&method(name), token, fields).await,
        }
    }

    /// As [`Self::call`], for what must succeed.
    pub(crate) async fn ok(&self, via: Via, name: &str, token: &str, fields: Value) -> Value {
        let answer = self.call(via, name, token, &fields).await;
        answer.unwrap_or_else(|refusal| panic!("{name} over {via:?} with {fields}: {refusal:?}"))
    }

    /// As [`Self::call`], for what must be refused.
    pub(crate) async fn refused(
        &self,
        via: Via,
        name: &str,
        token: &str,
        fields: Value,
    ) -> Refusal {
        match self.call(via, name, token, &fields).await {
            Err(refusal) => refusal,
            Ok(answer) => panic!("{name} over {via:?} with {fields} answered {answer}"),
        }
    }

    async fn call_json(
        &self,
        method: &MethodDescriptor,
        token: &str,
        fields: &Value,
    ) -> Result<Value, Refusal> {
        let (verb, template, has_body) = bindings(method).swap_remove(0);
        let mut rest = fields.as_object().expect("an object").clone();
        let path: Vec<String> = template
            .split('/')
            .map(
                |segment| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                    Some(variable) => match rest.remove(variable) {
                        Some(Value::String(text)) => text,
                        Some(other) => other.to_string(),
                        None => panic!("{variable} of {template} is missing"),
                    },
                    None => segment.to_owned(),
                },
            )
            .collect();
        let mut path = path.join("/");
        let body = if has_body {
            Value::Object(rest)
        } else {
            for (i, (name, value)) in rest.iter().enumerate() {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                path.push_str(&format!("{}{name}={value}", if i == 0 { '?' } else { '&' }));
            }
            Value::Null
        };
        let (status, headers, body) = self.api(verb, &path, token, &body).await;
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(Refusal::of_http(status, &headers, &body))
        }
    }

    async fn call_grpc(
        &self,
        method: &MethodDescriptor,
        token: &str,
        fields: &Value,
    ) -> Result<Value, Refusal> {
        let message = DynamicMessage::deserialize(method.input(), fields)
            .unwrap_or_else(|e| panic!("{fields} is no {}: {e}", method.input().name()));
        let answer = self
            .raw(method, token, message.encode_to_vec().into())
            .await
            .map_err(|status| Refusal::of_status(&status))?;
        let answer = DynamicMessage::decode(method.output(), answer).expect("the answer decodes");
        Ok(serde_json::to_value(answer).expect("the answer is JSON"))
    }

    /// Calls a method over gRPC and drops the answer once it has begun.
    pub(crate) async fn begin(
        &self,
        method: &MethodDescriptor,
        token: &str,
        message: &DynamicMessage,
    ) -> Result<(), Refusal> {
        let mut client = tonic::client::Grpc::new(grpc::channel(self).await);
        client.ready().await.expect("the connection is up");
        let mut request = tonic::Request::new(Bytes::from(message.encode_to_vec()));
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().expect("a token is ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let path = path.parse().expect("names are path characters");
        // A unary answer is a stream of one message.
        let begun = client.server_streaming(request, path, Raw).await;
        begun
            .map(drop)
            .map_err(|status| Refusal::of_status(&status))
    }

    /// Calls a method over gRPC with a message that is encoded already.
    pub(crate) async fn raw(
        &self,
        method: &MethodDescriptor,
        token: &str,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        raw_on(grpc::channel(self).await, &path, token, message).await
    }
}

/// Calls what a path of gRPC names, with a message that is encoded already.
pub(crate) async fn raw_on(
    channel: Channel,
    path: &str,
    token: &str,
    message: Bytes,
) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("the connection is up");
    let mut request = tonic::Request::new(message);
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().expect("a token is ASCII");
        request.metadata_mut().insert("authorization", value);
    }
    let path = path.parse().expect("names are path characters");
    Ok(client.unary(request, path, Raw).await?.into_inner())
}

/// Passes messages as raw bytes.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// An app that is published, and where it is.
pub(crate) struct Published {
    pub(crate) org: String,
    pub(crate) name: String,
    /// The authorities of its URLs, in the order of its ports.
    pub(crate) hosts: Vec<String>,
}

impl Published {
    /// The authority of the primary URL.
    pub(crate) fn host(&self) -> &str {
        &self.hosts[0]
    }

    /// The two fields that name it.
    pub(crate) fn id(&self) -> Value {
        json!({ "organization_name": self.org, "app_name": self.name })
    }
}

impl Ignite {
    /// Creates an app from the probe's image with these settings and publishes it, at zero.
    pub(crate) async fn publish(&self, org: &str, name: &str, settings: Value) -> Published {
        let token = self.token(org);
        let mut create = json!({
            "organization_name": org,
            "name": name,
            "code": prebuilt(&super::probe::image().await),
        });
        merge(&mut create, settings);
        self.ok(Via::Json, "CreateApp", &token, create).await;
        let draft = json!({ "organization_name": org, "app_name": name, "skip_ready_check": true });
        let published = self.ok(Via::Json, "PublishDraft", &token, draft).await;
        let urls = published["publicUrls"].as_array().expect("URLs");
        let host = |url: &Value| {
            let url = url.as_str().expect("a URL");
            let (_, authority) = url.split_once("://").expect("a URL");
            authority.to_owned()
        };
        Published {
            org: org.to_owned(),
            name: name.to_owned(),
            hosts: urls.iter().map(host).collect(),
        }
    }
}

/// The code of an image that exists.
pub(crate) fn prebuilt(image: &str) -> Value {
    json!({ "image": { "prebuilt": { "image_ref": image } } })
}

/// The two fields that name an app of acme.
pub(crate) fn acme_app(name: &str) -> Value {
    json!({ "organization_name": "acme", "app_name": name })
}

/// The fields of both objects; those of the second replace those of the first.
pub(crate) fn with(mut fields: Value, more: Value) -> Value {
    merge(&mut fields, more);
    fields
}

/// Adds the fields of one object to another.
pub(crate) fn merge(to: &mut Value, from: Value) {
    let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) else {
        panic!("both are objects");
    };
    to.extend(from);
}
