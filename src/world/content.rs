//! What publications hold: the bytes of a side's view.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    record::Stage,
    spec::AcceptedForm,
    time::milliseconds,
    token::{Digest, Secret, TokenName, VersionNumber},
};

/// What is written to a place: one view, whole. Its bytes are a function of its fields alone.
#[derive(Clone, Debug)]
pub enum Content {
    /// Which tokens are valid, until when.
    Accepted {
        /// Whose.
        token: TokenName,
        /// Record revision at which this view last changed.
        revision: u64,
        /// Newest first.
        entries: Vec<Accepted>,
    },
    /// The token to send.
    Presented {
        /// Whose.
        token: TokenName,
        /// Record revision at which this view last changed.
        revision: u64,
        /// Which version it is.
        version: VersionNumber,
        /// The value.
        value: Secret,
    },
}

/// One valid version, as verifiers learn of it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Which version.
    pub version: VersionNumber,
    /// Its stage.
    pub stage: Stage,
    /// Digest of its value.
    pub sha256: Digest,
    /// Its value, opened only for publications in the plain form.
    pub value: Option<Secret>,
    /// When it ends; `None` while it has no end.
    pub not_after: Option<Timestamp>,
}

impl Content {
    /// The record revision at which this view last changed.
    pub fn revision(&self) -> u64 {
        match self {
            Content::Accepted { revision, .. } | Content::Presented { revision, .. } => *revision,
        }
    }

    /// The value of an SSM parameter that publishes this view, byte for byte: the bare token, or
    /// the accepted document in the given form, without white space, in the order of the contract.
    pub fn bytes(&self, form: AcceptedForm) -> Secret {
        #[derive(Serialize)]
        struct Document<'a> {
            accepted: Vec<Line<'a>>,
        }
        #[derive(Serialize)]
        struct Line<'a> {
            version: VersionNumber,
            stage: Stage,
            #[serde(skip_serializing_if = "Option::is_none")]
            sha256: Option<&'a Digest>,
            #[serde(skip_serializing_if = "Option::is_none")]
            token: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            not_after: Option<String>,
        }
        match self {
            Content::Presented { value, .. } => value.clone(),
            Content::Accepted { entries, .. } => {
                let accepted = entries
                    .iter()
                    .map(|entry| Line {
                        version: entry.version,
                        stage: entry.stage,
                        sha256: (form == AcceptedForm::Digests).then_some(&entry.sha256),
                        token: match form {
                            AcceptedForm::Digests => None,
                            AcceptedForm::Plain => entry.value.as_ref().map(Secret::expose),
                        },
                        not_after: entry.not_after.map(milliseconds),
                    })
                    .collect();
                let document = serde_json::to_string(&Document { accepted });
                Secret::verbatim(document.expect("a document of plain fields serializes"))
            }
        }
    }
}
