//! The errors of the contract.
//!
//! An [`Error`] names what was attempted, on what, why it failed and how to fix it. Its text is safe to
//! show. It never holds an SDK's error: [`error_chain`] renders the cause of a failed call once, and the text
//! is kept.

use std::{fmt, panic::AssertUnwindSafe};

use changeover_token::Unfit;
use futures::FutureExt;
use serde_json::Value;

/// One of the contract's `errorType`s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The invocation's body is not a request.
    BadEvent,
    /// No spec has the token's name.
    UnknownToken,
    /// A spec, or the description of a cluster, has content that cannot be carried out.
    BadSpec,
    /// A value issued elsewhere cannot be used as a token.
    BadToken,
    /// This version of the function cannot read the record.
    BadRecord,
    /// A problem that would stop a rotation was found before anything was changed.
    PreflightFailed,
    /// AWS or a cluster refused the function's identity.
    AccessDenied,
    /// AWS throttled the call, also after back-off.
    Throttled,
    /// A service did not answer in time, or did not answer at all.
    Unreachable,
    /// The value to store is larger than its store accepts.
    TooLarge,
    /// An invariant of this program was broken.
    Internal,
}

impl Kind {
    /// Every kind, in the contract's order.
    pub const ALL: [Kind; 11] = [
        Kind::BadEvent,
        Kind::UnknownToken,
        Kind::BadSpec,
        Kind::BadToken,
        Kind::BadRecord,
        Kind::PreflightFailed,
        Kind::AccessDenied,
        Kind::Throttled,
        Kind::Unreachable,
        Kind::TooLarge,
        Kind::Internal,
    ];

    /// The name of the kind, which the caller reads in `errorType`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::BadEvent => "BadEvent",
            Kind::UnknownToken => "UnknownToken",
            Kind::BadSpec => "BadSpec",
            Kind::BadToken => "BadToken",
            Kind::BadRecord => "BadRecord",
            Kind::PreflightFailed => "PreflightFailed",
            Kind::AccessDenied => "AccessDenied",
            Kind::Throttled => "Throttled",
            Kind::Unreachable => "Unreachable",
            Kind::TooLarge => "TooLarge",
            Kind::Internal => "Internal",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The failure of an operation: what was attempted, on what, why it failed and how to fix it. All of its
/// text is safe to show.
///
/// `Display` is the contract's `errorMessage`: `could not <attempted> <on>: <because>; <fix>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not {attempted}{}: {because}; {fix}", .on.as_ref().map(|on| format!(" {on}")).unwrap_or_default())]
pub struct Error {
    /// The kind, which the caller reads in `errorType`.
    pub kind: Kind,
    /// The operation: a verb in the imperative, and its object unless [`Error::on`] names it.
    pub attempted: String,
    /// The one object of the operation: a parameter, an item, a workload.
    pub on: Option<String>,
    /// True if [`Error::on`] names the cluster that could not be used, so that no report has to add it.
    pub names_cluster: bool,
    /// The reason for the failure.
    pub because: String,
    /// The fix, in the imperative.
    pub fix: String,
}

impl Error {
    /// An error of this kind. `attempted` and `fix` are imperatives without a full stop.
    pub fn new(
        kind: Kind,
        attempted: impl Into<String>,
        because: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            attempted: attempted.into(),
            on: None,
            names_cluster: false,
            because: because.into(),
            fix: fix.into(),
        }
    }

    /// The same error with the one object that it is about.
    #[must_use]
    pub fn on(self, on: impl fmt::Display) -> Self {
        Self { on: Some(on.to_string()), ..self }
    }

    /// The same error with the one object that it is about: a cluster, or an object that is named with its
    /// cluster.
    #[must_use]
    pub fn on_cluster(self, on: impl fmt::Display) -> Self {
        Self { names_cluster: true, ..self.on(on) }
    }

    /// The same error with the message of a failed call added to the reason.
    ///
    /// The cause is rendered here and dropped. An SDK's error can hold the response, and with it a token,
    /// so it must not be kept inside an [`Error`].
    #[must_use]
    pub fn caused_by(self, cause: &dyn std::error::Error) -> Self {
        Self { because: format!("{}: {}", self.because, error_chain(cause)), ..self }
    }
}

/// `BadToken`, without the value.
impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        Error::new(
            Kind::BadToken,
            "use a value as a token",
            unfit.to_string(),
            "store the bare token, without line ends, a byte-order mark, or quotes around it",
        )
    }
}

/// An error and its sources, outermost first, each by its `Display`, joined by `": "`.
///
/// This is the only place that renders an error of another library. `Debug` of an SDK error prints the
/// body of the response, and with it a decrypted parameter. `Display` along `source()` does not. A source
/// that the text already ends with is not repeated. A chain longer than sixteen is cut there.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut text = String::new();
    for message in chain.take(LONGEST_CHAIN).map(ToString::to_string) {
        if text.is_empty() {
            text = message;
        } else if !text.ends_with(&message) {
            text = format!("{text}: {message}");
        }
    }
    text
}

/// The longest chain that is rendered. A cycle in `source()` is a bug of a library, and must not become an
/// endless loop here.
const LONGEST_CHAIN: usize = 16;

/// Runs the work, and returns a panic of it as an error with a fixed message, because the panic's own
/// message may hold a value. Like a crash, a panic keeps what was saved.
pub(crate) fn catch_panic<T>(
    work: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    AssertUnwindSafe(work).catch_unwind().map(|ended| {
        ended.unwrap_or_else(|_| {
            Err(Error::new(
                Kind::Internal,
                "carry out the invocation",
                "it panicked; the log says where",
                "report it; what was saved is carried on by the sweep, and both tokens keep working",
            ))
        })
    })
}

/// A text in the form for messages: in quotes, escaped, and cut to sixty-four characters.
pub fn quote_for_log(text: &str) -> String {
    let displayed_value: String = text.chars().take(LONGEST_QUOTE).collect();
    let ellipsis = if displayed_value.len() < text.len() { "…" } else { "" };
    format!("\"{}{ellipsis}\"", displayed_value.escape_debug())
}

/// A JSON value in the form for messages: a scalar by its value, with texts cut, and any other by its
/// type.
pub(crate) fn displayed_value(value: &Value) -> String {
    match value {
        Value::String(text) => quote_for_log(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

const LONGEST_QUOTE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn error_displays_as_one_sentence_with_its_fix() {
        let error = Error::new(
            Kind::AccessDenied,
            "read the parameter",
            "SSM refused the call",
            "grant ssm:GetParameter on it",
        )
        .on("/a/b")
        .caused_by(&Layer("no policy allows it", None));
        assert_eq!(
            error.to_string(),
            "could not read the parameter /a/b: SSM refused the call: no policy allows it; \
             grant ssm:GetParameter on it"
        );
    }

    #[test]
    fn causes_are_printed_once_and_outermost_first() {
        let inner = Layer("connection reset", None);
        let middle = Layer("dispatch failure", Some(Box::new(inner)));
        assert_eq!(error_chain(&middle), "dispatch failure: connection reset");
        let repeating = Layer("call failed: timed out", Some(Box::new(Layer("timed out", None))));
        assert_eq!(error_chain(&repeating), "call failed: timed out");
    }

    #[test]
    fn kinds_have_distinct_names() {
        let names: std::collections::BTreeSet<_> =
            Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
