//! The result of a command: its exit code.

use std::process::ExitCode;

use crate::{answer::Answer, function::Reply};

/// The result of a command, in the contract's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// The requested action is done.
    Done,
    /// It failed, or was refused.
    Failed,
    /// It is held, and waits for help.
    Held,
    /// It is still in progress at the time limit, or cannot begin yet.
    InProgress,
}

impl ExitStatus {
    /// The exit code. Wrong usage, which is 2, is reported before there is a verdict.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Done => 0,
            ExitStatus::Failed => 1,
            ExitStatus::Held => 3,
            ExitStatus::InProgress => 4,
        }
    }

    /// The verdict of a reply.
    pub(crate) fn of(reply: &Reply) -> Self {
        Answer::read(reply).map_or(ExitStatus::Failed, |answer| Self::of_answer(&answer))
    }

    /// The verdict of a reply to a request for a rotation. A rotation that was dropped has failed: it
    /// brought no version.
    pub(crate) fn of_rotation(reply: &Reply) -> Self {
        match Answer::read(reply) {
            Ok(answer) if answer.outcome == "dropped" => ExitStatus::Failed,
            _ => Self::of(reply),
        }
    }

    fn of_answer(answer: &Answer) -> Self {
        if answer.error.is_some() {
            return ExitStatus::Failed;
        }
        match answer.outcome.as_str() {
            "rotated" | "unchanged" | "completed" | "published" | "dropped" | "revoked"
            | "forgotten" | "nothing_owed" | "passed" | "warned" => ExitStatus::Done,
            "held" => ExitStatus::Held,
            "in_progress" | "deferred" | "handed_on" => ExitStatus::InProgress,
            // A sweep has the verdict of the worst of its tokens. A status only reports: it fails if a
            // token could not be read.
            "swept" => worst(answer.results.iter().map(Self::of_answer)),
            "reported" if answer.results.iter().any(|result| result.error.is_some()) => {
                ExitStatus::Failed
            }
            "reported" => ExitStatus::Done,
            // `refused`, and outcomes of later versions: an unknown outcome must never count as done.
            _ => ExitStatus::Failed,
        }
    }
}

fn worst(verdicts: impl Iterator<Item = ExitStatus>) -> ExitStatus {
    verdicts
        .max_by_key(|exit_status| match exit_status {
            ExitStatus::Done => 0,
            ExitStatus::InProgress => 1,
            ExitStatus::Held => 2,
            ExitStatus::Failed => 3,
        })
        .unwrap_or(ExitStatus::Done)
}

impl From<ExitStatus> for ExitCode {
    fn from(exit_status: ExitStatus) -> Self {
        ExitCode::from(exit_status.code())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn code(answer: Value) -> u8 {
        ExitStatus::of(&Reply { text: answer.to_string(), is_error: false }).code()
    }

    #[test]
    fn outcome_maps_to_its_exit_code() {
        for (outcome, expected) in [
            ("rotated", 0),
            ("unchanged", 0),
            ("completed", 0),
            ("published", 0),
            ("dropped", 0),
            ("revoked", 0),
            ("forgotten", 0),
            ("nothing_owed", 0),
            ("swept", 0),
            ("reported", 0),
            ("passed", 0),
            ("warned", 0),
            ("refused", 1),
            ("held", 3),
            ("in_progress", 4),
            ("deferred", 4),
            ("handed_on", 4),
            ("something_new", 1),
            ("", 1),
        ] {
            assert_eq!(code(json!({"outcome": outcome, "added": {"later": 1}})), expected);
        }
    }

    #[test]
    fn dropped_rotation_counts_as_failure() {
        for (outcome, expected) in [("dropped", 1), ("unchanged", 0), ("rotated", 0), ("held", 3)] {
            let text = json!({"outcome": outcome}).to_string();
            let reply = Reply { text, is_error: false };
            assert_eq!(ExitStatus::of_rotation(&reply).code(), expected, "{outcome}");
        }
    }

    #[test]
    fn sweep_exits_as_its_worst_token() {
        let done = json!({"outcome": "completed", "token": "a"});
        let moving = json!({"outcome": "in_progress", "token": "b"});
        let held = json!({"outcome": "held", "token": "c"});
        let failed = json!({"token": "d", "error": "AccessDenied", "message": "could not"});
        for (results, expected) in [
            (json!([]), 0),
            (json!([done]), 0),
            (json!([moving, done]), 4),
            (json!([held, moving, done]), 3),
            (json!([done, failed, held]), 1),
        ] {
            assert_eq!(code(json!({"outcome": "swept", "results": results})), expected);
        }
    }

    #[test]
    fn status_fails_only_for_unreadable_token() {
        let failed = json!({"token": "d", "error": "BadSpec", "message": "could not"});
        let held = json!({"token": "c", "held": {"object": "o", "reason": "r", "fix": "f"}});
        assert_eq!(code(json!({"outcome": "reported", "results": [held, failed]})), 1);
        assert_eq!(code(json!({"outcome": "reported", "results": [held]})), 0);
    }

    #[test]
    fn invalid_or_error_reply_is_a_failure() {
        for text in ["", "null", "[]", "\"rotated\"", "{}", "{\"outcome\": 7}", "<html>"] {
            let reply = Reply { text: text.to_owned(), is_error: false };
            assert_eq!(ExitStatus::of(&reply), ExitStatus::Failed, "{text}");
        }
        let reply = Reply { text: json!({"outcome": "rotated"}).to_string(), is_error: true };
        assert_eq!(ExitStatus::of(&reply), ExitStatus::Failed);
    }
}
