//! Answers as text for people. Text that the function quotes from others, for example a pod's message, may
//! hold anything. Control characters in it are shown, and never sent to the terminal.

use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;

use crate::answer::{
    Answer, Done, Failing, Imported, InboxValue, Publication, Queued, Reason, Version,
};

/// An answer as text. Each line ends with a newline, and is wrapped at this many columns.
pub(super) fn text(answer: &Answer, now: Timestamp, width: u16) -> String {
    let page = TextPage { now, width };
    let text = match answer.outcome.as_str() {
        "passed" | "warned" | "refused" => page.inspections(answer),
        "reported" if answer.results.is_empty() => "no token has a spec\n".to_owned(),
        "reported" => page.blocks(&answer.results, TextPage::standing),
        "swept" if answer.results.is_empty() => "nothing was due\n".to_owned(),
        "swept" => page.blocks(&answer.results, TextPage::report),
        _ => page.report(answer),
    };
    visible(&text)
}

/// A step that was done, as one line.
pub(super) fn step(done: &Done) -> String {
    let took = duration(Duration::from_millis(done.took_ms));
    visible(&format!("{}  {:<8} {:<8}  {took}", done.at, done.leg, words(&done.step)))
}

/// The current step of a rotation that is under way, as one line.
pub(super) fn standing(answer: &Answer) -> String {
    let mut line = match (&answer.leg, &answer.step) {
        (Some(leg), Some(step)) => format!("{leg} {}", words(step)),
        _ => words(&answer.outcome),
    };
    if let Some(warning) = answer.warnings.last() {
        line = format!("{line}: {warning}");
    }
    visible(&line)
}

struct TextPage {
    now: Timestamp,
    width: u16,
}

impl TextPage {
    fn blocks(&self, results: &[Answer], block: impl Fn(&Self, &Answer) -> String) -> String {
        results.iter().map(|result| block(self, result)).collect::<Vec<_>>().join("\n")
    }

    /// The outcome of one token.
    fn report(&self, report: &Answer) -> String {
        let version = report.version.map(|version| format!(", version {version}"));
        let outcome = match report.error {
            Some(_) => "failed".to_owned(),
            None => words(&report.outcome),
        };
        let title = format!("{}: {outcome}{}\n", report.token, version.unwrap_or_default());

        let mut facts = Vec::new();
        failure(&mut facts, report);
        // The last step is of no interest if the rotation is complete.
        if matches!(report.outcome.as_str(), "in_progress" | "held" | "deferred") {
            step_of(&mut facts, "stands at", report);
        }
        facts.extend(report.not_before.iter().map(|time| ("not before", self.when(time))));
        reason(&mut facts, report.held.as_ref());
        facts.extend(report.selectors.iter().map(|selector| ("presented", selector.clone())));
        let until = report.previous_valid_until.iter();
        facts.extend(until.map(|time| ("previous until", self.when(time))));
        facts.extend(report.warnings.iter().map(|warning| ("warning", warning.clone())));
        title + &self.facts(&facts)
    }

    /// The status of one token.
    fn standing(&self, standing: &Answer) -> String {
        let title = format!("{}\n", standing.token);
        let mut facts = Vec::new();
        failure(&mut facts, standing);
        // Versions first, then the rotation and the step that is owed.
        if standing.error.is_none() && standing.versions.is_empty() {
            facts.push(("version", "none yet: publish adopts or creates the first".to_owned()));
        }
        facts.extend(standing.versions.iter().map(|version| ("version", self.version(version))));
        facts.extend(standing.rotation.iter().map(|id| ("rotation", id.clone())));
        facts.extend(standing.queued.iter().map(|it| ("rotation after it", self.queued(it))));
        step_of(&mut facts, "owes", standing);
        facts.extend(standing.due_at.iter().map(|time| ("looked at", self.when(time))));
        let unanswered = standing.unanswered_until.iter();
        facts.extend(unanswered.map(|time| ("write may land until", self.when(time))));
        // Then everything that an operator may have to act on.
        reason(&mut facts, standing.held.as_ref());
        if standing.spec.as_ref().is_some_and(serde_json::Value::is_null) {
            let fix = format!("gone; `changeover forget {}` ends the record", standing.token);
            facts.push(("spec", fix));
        }
        if let Some(Failing { tries, since, error, message }) = &standing.failing {
            let runs = if *tries == 1 { "run" } else { "runs" };
            facts.push(("failing", format!("{tries} {runs} since {}", self.when(since))));
            facts.extend([("error", error.clone()), ("message", message.clone())]);
        }
        facts.extend(standing.drift.iter().map(|place| ("drift", place.clone())));
        facts.extend(standing.without.iter().map(|cluster| ("without", cluster.clone())));
        // The value last taken from the inbox, and last of all the places, as a table.
        if let Some(Imported { arrival, refused }) = &standing.imported {
            let InboxValue { parameter, version, written_at } = arrival;
            let taken = format!("{parameter}:{version}, of {}", self.when(written_at));
            facts.push(("imported", taken));
            facts.extend(refused.iter().map(|because| ("import refused", because.clone())));
        }

        let mut publications =
            self.table(["side", "place", "revision", "store version", "written"]);
        publications.add_rows(standing.publications.iter().map(|it| self.publication(it)));
        let publications =
            if standing.publications.is_empty() { String::new() } else { indented(&publications) };
        title + &self.facts(&facts) + &publications
    }

    fn version(&self, version: &Version) -> String {
        let since = version.created_at.as_ref().map(|time| format!(", since {}", self.when(time)));
        let until = version.not_after.as_ref().map(|time| format!(", until {}", self.when(time)));
        let (since, until) = (since.unwrap_or_default(), until.unwrap_or_default());
        format!("{} {}{since}{until}", version.version, version.stage)
    }

    fn queued(&self, queued: &Queued) -> String {
        let since = queued.since.as_ref().map(|time| format!(", since {}", self.when(time)));
        let without = if queued.without.is_empty() {
            String::new()
        } else {
            format!(", without {}", queued.without.join(", "))
        };
        format!("{}{}{without}", queued.rotation, since.unwrap_or_default())
    }

    fn publication(&self, publication: &Publication) -> [String; 5] {
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
        [
            publication.side.clone(),
            publication.place.clone(),
            number(publication.revision),
            number(publication.store_version),
            publication.answered_at.as_ref().map_or("never".to_owned(), |time| self.when(time)),
        ]
    }

    /// The findings of a preflight, and the checks that passed.
    fn inspections(&self, answer: &Answer) -> String {
        let inspection = |page: &Self, result: &Answer| {
            let title = format!("{}: {}\n", result.token, answer.outcome);
            let mut findings = page.table(["severity", "object", "reason", "fix"]);
            findings.add_rows(result.findings.iter().map(|finding| {
                [&finding.severity, &finding.object, &finding.reason, &finding.fix]
            }));
            let findings =
                if result.findings.is_empty() { String::new() } else { indented(&findings) };
            let checked = result.checked.iter();
            let checked: Vec<_> =
                checked.map(|it| (it.object.as_str(), it.what.join("; "))).collect();
            title + &findings + &page.facts(&checked)
        };
        self.blocks(&answer.results, inspection)
    }

    /// Names and their values, one below the other.
    fn facts(&self, facts: &[(&str, String)]) -> String {
        if facts.is_empty() {
            return String::new();
        }
        let mut table = self.bare_table();
        table.add_rows(facts.iter().map(|(name, fact)| [*name, fact.as_str()]));
        indented(&table)
    }

    fn table<const COLUMNS: usize>(&self, header: [&str; COLUMNS]) -> Table {
        let mut table = self.bare_table();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
        table
    }

    fn bare_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        // Text in fewer columns is not legible.
        table.set_width(self.width.max(40) - 1);
        table
    }

    /// A time, and its distance from now.
    fn when(&self, time: &str) -> String {
        let Ok(at) = time.parse::<Timestamp>() else { return time.to_owned() };
        let passed = self.now.duration_since(at);
        match Duration::try_from(passed) {
            Ok(passed) => format!("{time} ({} ago)", duration(passed)),
            Err(_) => format!("{time} (in {})", duration(passed.unsigned_abs())),
        }
    }
}

fn failure(facts: &mut Vec<(&'static str, String)>, of: &Answer) {
    facts.extend(of.error.iter().map(|error| ("error", error.clone())));
    facts.extend(of.message.iter().map(|message| ("message", message.clone())));
}

fn step_of(facts: &mut Vec<(&'static str, String)>, name: &'static str, of: &Answer) {
    if let (Some(leg), Some(step)) = (&of.leg, &of.step) {
        facts.push((name, format!("{leg} {}", words(step))));
    }
}

fn reason(facts: &mut Vec<(&'static str, String)>, held: Option<&Reason>) {
    if let Some(Reason { object, reason, fix }) = held {
        facts.extend([("held", object.clone()), ("reason", reason.clone()), ("fix", fix.clone())]);
    }
}

/// The two largest units of a duration; below a second, milliseconds.
pub(super) fn duration(duration: Duration) -> String {
    let rounded = match duration.as_secs() {
        0 => Duration::from_millis(duration.as_millis().try_into().unwrap_or(0)),
        seconds => Duration::from_secs(seconds),
    };
    let text = humantime::format_duration(rounded).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A name such as `roll_out` as words.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn indented(table: &Table) -> String {
    table.lines().map(|line| format!(" {}\n", line.trim_end())).collect()
}

/// The text with its control characters escaped, so that it cannot control a terminal.
pub(super) fn visible(text: &str) -> String {
    let show = |character: char| match character {
        '\n' => character.to_string(),
        _ if character.is_control() => character.escape_debug().to_string(),
        _ => character.to_string(),
    };
    text.chars().map(show).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::function::Reply;

    /// Wide enough that nothing is wrapped.
    const WIDE: u16 = 500;

    fn displayed_value(answer: Value, width: u16) -> String {
        let reply = Reply { text: answer.to_string(), is_error: false };
        let answer = Answer::read(&reply).expect("an answer");
        text(&answer, "2026-11-22T12:00:00Z".parse().expect("a time"), width)
    }

    #[test]
    fn rotation_is_rendered_in_few_lines() {
        let rotated = json!({
            "outcome": "rotated", "token": "datastore-token", "version": 7, "rotation": "3f0c",
            "leg": "overlap", "step": "publish", "selectors": ["/backend/datastore-token:12"],
            "previous_valid_until": "2026-11-22T12:14:59.123Z", "timeline": [],
            "warnings": ["no verifier restarts"], "held": null, "of_a_later_version": {"a": [1]},
        });
        assert_eq!(
            displayed_value(rotated, WIDE),
            "datastore-token: rotated, version 7\n  \
             presented       /backend/datastore-token:12\n  \
             previous until  2026-11-22T12:14:59.123Z (in 14m 59s)\n  \
             warning         no verifier restarts\n"
        );
    }

    #[test]
    fn held_rotation_shows_object_reason_and_fix() {
        let held = json!({
            "outcome": "held", "token": "datastore-token", "version": 7, "leg": "expand",
            "step": "roll_out", "held": {"object": "deployment backend/datastore", "reason":
            "container datastore is in CrashLoopBackOff", "fix": "mend it"},
        });
        assert_eq!(
            displayed_value(held, 45),
            "datastore-token: held, version 7\n  \
             stands at  expand roll out\n  \
             held       deployment backend/datastore\n  \
             reason     container datastore is in\n             \
             CrashLoopBackOff\n  \
             fix        mend it\n"
        );
    }

    #[test]
    fn status_shows_only_present_values() {
        let standing = json!({
            "token": "datastore-token", "revision": 12, "rotation": null, "leg": "overlap",
            "step": "roll_out", "due_at": "2026-11-22T12:00:10.000Z", "unanswered_until": null,
            "versions": [
                {"version": 7, "stage": "current", "created_at": "2026-11-22T11:50:00.000Z"},
                {"version": 6, "stage": "previous", "created_at": "no time", "not_after":
                    "2026-11-22T12:05:00.000Z"},
            ],
            "publications": [
                {"side": "verifiers", "place": "ssm:/a", "revision": 12, "store_version": 14,
                 "answered_at": "2026-11-22T11:59:00.000Z"},
                {"side": "presenters", "place": "ssm:/b", "revision": null},
            ],
            "held": null, "drift": ["ssm:/b"],
        });
        let failed = json!({"token": "other-token", "error": "BadSpec", "message": "mend it"});
        let text =
            displayed_value(json!({"outcome": "reported", "results": [standing, failed]}), WIDE);
        let squeezed: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        for line in [
            "datastore-token",
            "version 7 current, since 2026-11-22T11:50:00.000Z (10m ago)",
            "version 6 previous, since no time, until 2026-11-22T12:05:00.000Z (in 5m)",
            "owes overlap roll out",
            "looked at 2026-11-22T12:00:10.000Z (in 10s)",
            "drift ssm:/b",
            "verifiers ssm:/a 12 14 2026-11-22T11:59:00.000Z (1m ago)",
            "presenters ssm:/b - - never",
            "other-token",
            "error BadSpec",
        ] {
            assert!(squeezed.iter().any(|it| it == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("held") && !text.contains("rotation"), "{text}");
    }

    #[test]
    fn preflight_table_fits_terminal_width() {
        let finding = json!({
            "severity": "refusal", "object": "deployment backend/datastore of cluster prod",
            "reason": "it is paused, and would never finish to roll out",
            "fix": "resume it: kubectl rollout resume",
        });
        let refused = |findings| {
            let checked = json!([{"object": "prod/backend/deployment/backend", "what": [
                "it exists", "its pods see the Secret, and are replaced when they are stamped",
            ]}]);
            let result =
                json!({"token": "datastore-token", "findings": findings, "checked": checked});
            json!({"outcome": "refused", "results": [result]})
        };
        for width in [40, 80, 120] {
            let text = displayed_value(refused(json!([finding])), width);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(width)), "{width}:\n{text}");
        }
        let wide = displayed_value(refused(json!([finding])), WIDE);
        let row = wide.lines().find(|line| line.contains("refusal")).expect("its row");
        assert!(row.contains("it is paused, and would never finish to roll out"), "{wide}");
        let row = wide.lines().find(|line| line.contains("deployment/backend ")).expect("its row");
        assert!(row.contains("it exists; its pods see the Secret"), "{wide}");
    }

    #[test]
    fn control_characters_are_escaped_in_output() {
        let held = json!({
            "outcome": "held", "token": "a", "warnings": ["\u{1b}[2Jgone\u{7}\u{9b}"],
            "held": {"object": "o", "reason": "\r\u{1b}]0;title\u{7}", "fix": "f"},
        });
        for width in [WIDE, 60] {
            let text = displayed_value(held.clone(), width);
            assert!(text.chars().all(|it| it == '\n' || !it.is_control()), "{text:?}");
            assert!(text.contains("\\u{1b}[2Jgone"), "{text}");
        }
    }

    #[test]
    fn empty_result_is_reported_in_words() {
        assert_eq!(
            displayed_value(json!({"outcome": "swept", "results": []}), WIDE),
            "nothing was due\n"
        );
        let none = json!({"outcome": "reported", "results": []});
        assert_eq!(displayed_value(none, WIDE), "no token has a spec\n");
    }

    #[test]
    fn duration_shows_its_two_largest_units() {
        for (milliseconds, text) in [
            (0, "0s"),
            (999, "999ms"),
            (1_234, "1s"),
            (754_000, "12m 34s"),
            (93_784_000, "1day 2h"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }
}
