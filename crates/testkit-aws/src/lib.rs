//! A service behind the SDK's own HTTP client interface: real serialisers, parsers, retries and error
//! mapping, over a function from a request to an answer.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
    shared::IntoShared,
};
use aws_smithy_types::body::SdkBody;
use changeover_aws::Aws;
use serde_json::{Value, json};

/// One request, as it was sent over the wire.
#[derive(Clone, Debug)]
pub struct Call {
    /// The name of the operation, such as `PutParameter`, or the path of a request to a service without
    /// such names.
    pub operation: String,
    /// The type of an invocation of a function, which decides if the caller waits for it.
    pub invocation_type: Option<String>,
    /// The body.
    pub body: Value,
}

/// The reaction of the service to a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Answers with this status and body.
    With(u16, Value),
    /// Answers that the function failed, with this body.
    FunctionError(Value),
    /// Answers with a text that is not JSON.
    Garbled(String),
    /// Breaks the connection.
    Lost,
    /// Never answers.
    Silence,
}

/// An answer with status 200.
pub fn ok(body: Value) -> Answer {
    Answer::With(200, body)
}

/// An error of the JSON protocols.
pub fn refused(code: &str) -> Answer {
    Answer::With(400, error_body(code, "so it is"))
}

/// The body of an error.
pub fn error_body(code: &str, message: &str) -> Value {
    json!({"__type": format!("com.amazonaws#{code}"), "message": message, "Message": message})
}

/// A service, and the requests that it received.
#[derive(Clone)]
pub struct Wire {
    answer: Arc<Mutex<Answering>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

type Answering = dyn FnMut(&Call) -> Answer + Send;

impl Wire {
    /// A service that answers with this function.
    pub fn new(answer: impl FnMut(&Call) -> Answer + Send + 'static) -> Self {
        Self { answer: Arc::new(Mutex::new(answer)), calls: Arc::default() }
    }

    /// A service that gives these answers one after another, and then the last one for ever.
    pub fn script(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers: Vec<_> = answers.into_iter().collect();
        answers.reverse();
        Self::new(move |_| match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop().expect("an answer"),
        })
    }

    /// AWS, with this service behind it.
    pub fn aws(&self) -> Arc<Aws> {
        Arc::new(Aws::new(self.config()))
    }

    /// A configuration whose HTTP client is this service.
    pub fn config(&self) -> SdkConfig {
        sdk_config().into_builder().http_client(self.clone()).build()
    }

    /// The requests that it received, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of the requested operations, in order.
    pub fn operations(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.operation).collect()
    }

    /// The only request that it received. Fails the test if there is none or more than one.
    pub fn only_call(&self) -> Call {
        let calls = self.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls[0].clone()
    }
}

/// A configuration without an HTTP client.
pub fn sdk_config() -> SdkConfig {
    let credentials = Credentials::new("AKIDEXAMPLE", "wJalrXUtnFEMI", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::from_static("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

impl HttpConnector for Wire {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let operation = match request.headers().get("x-amz-target") {
            Some(target) => target.rsplit('.').next().unwrap_or_default().to_owned(),
            None => request.uri().split_once("amazonaws.com").unwrap_or_default().1.to_owned(),
        };
        let body = request.body().bytes().unwrap_or_default();
        let invocation_type = request.headers().get("x-amz-invocation-type").map(str::to_owned);
        let body = serde_json::from_slice(body).unwrap_or_default();
        let call = Call { operation, invocation_type, body };
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner)(&call);
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        let respond = |status: u16, body: String, function_error: Option<&'static str>| {
            let status = StatusCode::try_from(status).expect("a status");
            let mut response = HttpResponse::new(status, SdkBody::from(body));
            response.headers_mut().insert("x-amzn-requestid", "request-1");
            if let Some(function_error) = function_error {
                response.headers_mut().insert("x-amz-function-error", function_error);
            }
            HttpConnectorFuture::ready(Ok(response))
        };
        match answer {
            Answer::With(status, body) => respond(status, body.to_string(), None),
            Answer::FunctionError(body) => respond(200, body.to_string(), Some("Unhandled")),
            Answer::Garbled(body) => respond(200, body, None),
            Answer::Lost => HttpConnectorFuture::ready(Err(ConnectorError::io(
                "connection closed before message completed".into(),
            ))),
            Answer::Silence => HttpConnectorFuture::new(std::future::pending()),
        }
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.clone().into_shared()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}
