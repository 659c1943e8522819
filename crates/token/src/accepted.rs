//! What publications hold: the bytes of a side's view.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    AcceptedForm, Digest, Fence, Life, Secret, Stage, TokenName, VersionNumber, time::milliseconds,
};

/// What is written to a place: one view, whole. Its bytes are a function of its fields alone.
#[derive(Clone, Debug)]
pub enum Content {
    /// Which tokens are valid, until when.
    Accepted {
        /// Whose.
        token: TokenName,
        /// The life and the revision of the record at which this view last changed.
        fence: Fence,
        /// Newest first.
        entries: Vec<Accepted>,
    },
    /// The token to send.
    Presented {
        /// Whose.
        token: TokenName,
        /// The life and the revision of the record at which this view last changed.
        fence: Fence,
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
    /// The life and the revision of the record at which this view last changed.
    pub fn fence(&self) -> Fence {
        match self {
            Content::Accepted { fence, .. } | Content::Presented { fence, .. } => *fence,
        }
    }

    /// The value of an SSM parameter that publishes this view, byte for byte: the bare token, or
    /// the accepted document in the given form, without white space, in the order of the contract.
    ///
    /// The document of a view without a life is that of earlier versions of changeover, without life and
    /// revision: an upgrade changes no bytes before the view itself changes.
    pub fn bytes(&self, form: AcceptedForm) -> Secret {
        #[derive(Serialize)]
        struct Document<'a> {
            accepted: Vec<Line<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            life: Option<Life>,
            #[serde(skip_serializing_if = "Option::is_none")]
            revision: Option<u64>,
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
            Content::Accepted { entries, fence, .. } => {
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
                let Fence { life, revision } = *fence;
                let revision = life.is_some().then_some(revision);
                let document = serde_json::to_string(&Document { accepted, life, revision });
                Secret::verbatim(document.expect("a document of plain fields serializes"))
            }
        }
    }
}

impl Fence {
    /// The fence that an accepted document carries; `None` if the text is no document with a fence.
    pub fn of_document(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            life: Option<Life>,
            revision: u64,
        }
        let Document { life, revision } = serde_json::from_str(text).ok()?;
        (revision <= Self::LARGEST_REVISION).then_some(Self { life, revision })
    }
}
