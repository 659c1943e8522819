//! The content of publications: the bytes of a side's view.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    AcceptedForm, Digest, Fence, Life, Secret, Stage, TokenName, VersionNumber, time::milliseconds,
};

/// The content of one place: one whole view. Its bytes are a function of its fields alone.
#[derive(Clone, Debug)]
pub enum Content {
    /// The valid tokens, and the end of each.
    Accepted {
        /// The token.
        token: TokenName,
        /// The life and the revision of the record at which this view last changed.
        fence: Fence,
        /// Valid versions, newest first.
        entries: Vec<Accepted>,
    },
    /// The token to send.
    Presented {
        /// The token.
        token: TokenName,
        /// The life and the revision of the record at which this view last changed.
        fence: Fence,
        /// The version to send.
        version: VersionNumber,
        /// The value.
        value: Secret,
    },
}

/// One valid version, as verifiers see it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The version.
    pub version: VersionNumber,
    /// Its stage.
    pub stage: Stage,
    /// Digest of its value.
    pub sha256: Digest,
    /// Its value, opened only for publications in the plain form.
    pub value: Option<Secret>,
    /// Time at which it ends; `None` while it has no end.
    pub not_after: Option<Timestamp>,
}

impl Content {
    /// The life and the revision of the record at which this view last changed.
    pub fn fence(&self) -> Fence {
        match self {
            Content::Accepted { fence, .. } | Content::Presented { fence, .. } => *fence,
        }
    }

    /// The value of an SSM parameter that publishes this view, byte for byte: the bare token, or the
    /// accepted document in the given form, without white space, in the order of the contract.
    ///
    /// The document of a view without a life is the same as in earlier versions of changeover, without life
    /// and revision. So an upgrade changes no bytes until the view itself changes.
    pub fn bytes(&self, form: AcceptedForm) -> Secret {
        // The order of the fields is the order in the document, and absent fields are left out.
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
        // The presented view is the bare token. The accepted view is the document.
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
                // Without a life there is no revision either, as in earlier versions.
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
