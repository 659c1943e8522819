//! The fields of a request's body. Each is read, and refused, by itself.

use std::{collections::BTreeSet, time::Duration};

use changeover_token::TokenName;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Kind, displayed_value, quote_for_log},
    spec::{self, ParameterName},
};

/// The fields of a request's body.
pub(super) struct Body<'a>(pub(super) &'a Map<String, Value>);

impl Body<'_> {
    /// Refuses every field but these.
    pub(super) fn check(&self, action: &str, known: &[&str]) -> Result<(), Error> {
        for field in self.0.keys().map(String::as_str) {
            if field != "action" && !known.contains(&field) {
                return Err(bad_event(
                    format!("{} is not a field of the action \"{action}\"", quote_for_log(field)),
                    "leave it out",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn token(&self) -> Result<TokenName, Error> {
        self.name("token")
    }

    /// The name of a token in this field.
    pub(super) fn name(&self, field: &str) -> Result<TokenName, Error> {
        let because = match self.0.get(field) {
            Some(Value::String(name)) => match TokenName::parse(name) {
                Ok(name) => return Ok(name),
                Err(fault) => fault.to_string(),
            },
            Some(_) => "it is not a text".to_owned(),
            None => "it is missing".to_owned(),
        };
        Err(bad_event(
            format!("`{field}` names no token: {because}"),
            "name the token as its spec's parameter does",
        ))
    }

    pub(super) fn key(&self) -> Result<Option<String>, Error> {
        let (because, fix) = match self.0.get("key") {
            None => return Ok(None),
            Some(Value::String(key)) if key.contains("<aws.") => (
                "still holds a placeholder of EventBridge Scheduler that was not filled in",
                "write \"<aws.scheduler.scheduled-time>\" in the input of a schedule's target, and \
                 nowhere else",
            ),
            Some(Value::String(key)) if (1..=LONGEST_KEY).contains(&key.len()) => {
                return Ok(Some(key.clone()));
            }
            Some(_) => (
                "is not a text of 1 to 1,024 bytes",
                "write one that is the same in each try of the same rotation, and in no other",
            ),
        };
        Err(bad_event(format!("`key` {because}"), fix))
    }

    /// The inbox of an import. Its name is shown in messages: it comes from AWS, and is no secret.
    pub(super) fn parameter(&self) -> Result<ParameterName, Error> {
        let name = self.0.get("parameter").unwrap_or(&Value::Null);
        let parsed = match name.as_str() {
            Some(name) => ParameterName::parse(name),
            None => Err("it is not a text".into()),
        };
        parsed.map_err(|because| {
            bad_event(
                format!("`parameter` is {}: {because}", displayed_value(name)),
                "give the rule's target an input transformer that writes the name of the parameter \
                 that changed, $.detail.name, there",
            )
        })
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, Error> {
        match self.0.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(bad_event(
                format!("`{field}` is {}", displayed_value(other)),
                "write true, or leave it out",
            )),
        }
    }

    pub(super) fn without(&self) -> Result<BTreeSet<String>, Error> {
        let cluster =
            |value: &Value| value.as_str().filter(|it| spec::is_cluster(it)).map(str::to_owned);
        let clusters = match self.0.get("without") {
            None => return Ok(BTreeSet::new()),
            Some(Value::Array(list)) if list.len() <= MOST_CLUSTERS => {
                list.iter().map(cluster).collect()
            }
            Some(_) => None,
        };
        clusters.ok_or_else(|| {
            bad_event(
                "`without` is not a list of up to 100 names of clusters",
                "write the names under which the token's spec knows them, such as [\"prod\"]",
            )
        })
    }

    pub(super) fn wait(&self) -> Result<Option<Duration>, Error> {
        let Some(wait) = self.0.get("wait") else {
            return Ok(None);
        };
        // A number has no unit, and is not a duration.
        let text = wait.as_str().unwrap_or_default();
        spec::duration(text, Duration::ZERO..=spec::LONGEST_DURATION).map(Some).map_err(|fault| {
            bad_event(
                format!("`wait` is {}, which {fault}", displayed_value(wait)),
                "or leave it out, to wait as long as the invocation has time",
            )
        })
    }
}

/// The refusal of an event, or of a part of it.
pub(super) fn bad_event(because: impl Into<String>, fix: impl Into<String>) -> Error {
    Error::new(Kind::BadEvent, "read the event", because, fix)
}

const MOST_CLUSTERS: usize = 100;
const LONGEST_KEY: usize = 1024;
