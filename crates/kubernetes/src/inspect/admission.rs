//! The answer of admission to the changes that a rotation makes, known in advance.
//!
//! An actor that has the right to a change may still be refused it: by a policy, a webhook, a quota, or
//! because a webhook that must be asked does not answer. So every change is made once as a dry run, before
//! anything is published.

use changeover_core::{
    error::{Error, Kind},
    finding::{Finding, Severity},
};

use super::Looked;
use crate::call::Failed;

impl Looked {
    /// Notes the outcome of a dry run. `right` says in words what passes.
    ///
    /// # Errors
    /// If no answer came.
    pub(super) fn note(
        &mut self,
        object: &str,
        right: &str,
        judged: Result<(), Failed>,
    ) -> Result<(), Error> {
        let Failed { error, code } = match judged {
            Ok(()) => {
                self.examination.right(object, right);
                return Ok(());
            }
            Err(failed) => failed,
        };
        match (error.kind, code) {
            (Kind::Unreachable | Kind::Throttled, _) => return Err(error),
            // The object was recreated since it was read. A rotation reads it again.
            (_, 409) => {}
            (Kind::AccessDenied, 403) => self.forbidden.push(Finding::failed(object, error)),
            (_, 404) => {
                let missing = Finding::failed(object, error);
                self.examination.findings.push(Finding { severity: Severity::Missing, ..missing });
            }
            // `NewDryRunUnsupportedErr` in apiserver's `pkg/admission/plugin/webhook/errors/statuserror.go`.
            (_, 400) if error.because.contains("does not support dry run") => {
                self.examination.findings.push(Finding::warning(
                    object,
                    format!(
                        "whether admission lets it be changed was not tried: {}",
                        error.because
                    ),
                    "have that webhook support dry runs (sideEffects: None or NoneOnDryRun)",
                ));
            }
            _ => self.examination.findings.push(Finding::failed(object, error)),
        }
        Ok(())
    }
}
