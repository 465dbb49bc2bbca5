//! The route table, read from the `google.api.http` options of the contract.

use std::{borrow::Cow, collections::BTreeMap};

use axum::http::{Method, Uri};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use tonic::{Code, Status};

use crate::{
    api::status::to_status,
    model::{Failure, Reason},
};

/// How a method's response is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Render {
    /// One JSON object.
    Unary,
    /// One JSON object per message.
    Stream,
    /// The app's own response.
    Invoke,
}

/// One HTTP method on one path, bound to one RPC.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) method: Method,
    pub(super) rpc: MethodDescriptor,
    /// The path in gRPC: `/package.Service/Method`.
    pub(super) uri: Uri,
    /// The HTTP body is the message (`body: "*"`); without this the request has no body.
    pub(super) body: bool,
    pub(super) render: Render,
}

impl Binding {
    fn new(rpc: &MethodDescriptor, method: Method, body: bool) -> Self {
        let uri = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        let render = match rpc.is_server_streaming() {
            false => Render::Unary,
            true if rpc.output().full_name() == "dodil.ignite.v1.InvokeResponse" => Render::Invoke,
            true => Render::Stream,
        };
        Self {
            method,
            rpc: rpc.clone(),
            uri: uri
                .parse()
                .expect("names of services and methods are path characters"),
            body,
            render,
        }
    }

    /// Adds a message to a status that has none: an unregistered service answers a bare
    /// UNIMPLEMENTED.
    pub(super) fn explain(&self, status: Status) -> Status {
        if status.code() != Code::Unimplemented || !status.message().is_empty() {
            return status;
        }
        let name = self.rpc.full_name();
        let failure = Failure::new(Reason::Unimplemented, format!("{name} is not built yet"));
        to_status(&failure, false)
    }
}

/// All bindings of all services, by path in axum's spelling (which is the annotation's).
///
/// # Panics
/// If an annotation uses a feature that this gateway lacks (a body that is one field, patterns in a
/// path). The contract is compiled in, so a test fails before a server can.
pub(super) fn by_path(pool: &DescriptorPool) -> BTreeMap<String, Vec<Binding>> {
    let http = pool
        .get_extension_by_name("google.api.http")
        .expect("the contract imports google/api/annotations.proto");
    let mut paths: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
    for rpc in pool
        .services()
        .flat_map(|s| s.methods().collect::<Vec<_>>())
    {
        let options = rpc.options();
        if !options.has_extension(&http) {
            continue;
        }
        let rule = options.get_extension(&http);
        let rule = rule.as_message().expect("HttpRule is a message");
        let more = field(rule, "additional_bindings");
        let more = more.as_list().expect("additional_bindings is repeated");
        for rule in std::iter::once(rule).chain(more.iter().filter_map(Value::as_message)) {
            let (path, binding) = bind(&rpc, rule);
            paths.entry(path).or_default().push(binding);
        }
    }
    paths
}

fn bind(rpc: &MethodDescriptor, rule: &DynamicMessage) -> (String, Binding) {
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let (verb, method) = verbs
        .into_iter()
        .find(|(verb, _)| rule.has_field_by_name(verb))
        .unwrap_or_else(|| panic!("{} has no HTTP method", rpc.full_name()));
    let path = text(rule, verb);
    let plain = path.split('/').filter_map(|s| s.strip_prefix('{'));
    for variable in plain.filter_map(|s| s.strip_suffix('}')) {
        assert!(
            rpc.input().get_field_by_name(variable).is_some(),
            "{}: {path} has the variable {variable}, the request has no such field",
            rpc.full_name()
        );
    }
    let body = match text(rule, "body").as_str() {
        "" => false,
        "*" => true,
        one => panic!("{}: body {one:?} is not supported", rpc.full_name()),
    };
    (path, Binding::new(rpc, method, body))
}

fn field<'a>(message: &'a DynamicMessage, name: &str) -> Cow<'a, Value> {
    message
        .get_field_by_name(name)
        .expect("HttpRule has the field")
}

fn text(message: &DynamicMessage, name: &str) -> String {
    field(message, name).as_str().unwrap_or_default().to_owned()
}
