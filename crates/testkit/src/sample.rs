//! Records, views and names for tests.

use std::collections::BTreeMap;

use changeover_core::{
    record::{
        Audit, Begin, Imported, InboxValueId, KeyDigest, KeyEntry, Lease, Minted, Purpose, Queued,
        Record, RotationId, Transition,
    },
    spec::SpecId,
};
use changeover_token::{
    Accepted, Content, Fence, Life, Sealed, Secret, Stage, TokenName, VersionNumber,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// The token that most tests are about.
pub fn token() -> TokenName {
    named("datastore-token")
}

/// A token of this name.
pub fn named(name: &str) -> TokenName {
    TokenName::parse(name).expect("a name")
}

/// The time 2026-11-01T00:00:00Z plus this many seconds.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::constant(1_793_491_200, 0) + SignedDuration::from_secs(seconds)
}

/// A record of revision 1 that has no version and owes nothing.
pub fn bare_record(token: &TokenName) -> Record {
    Record::new(token.clone(), life(0), at(0)).to_save()
}

/// A record in the middle of a rotation, with as much in it as a record can hold at the start of one.
pub fn begun_record(token: &TokenName) -> Record {
    let value = |value: &str| Minted {
        sha256: Secret::verbatim(value.to_owned()).digest(),
        sealed: Sealed(vec![0, 159, 146, 150]),
        held_at: BTreeMap::from([("ssm:/backend/datastore-token".to_owned(), 3)]),
    };
    let id = RotationId("3f0c".to_owned());
    let lease = Lease { holder: "somebody".to_owned(), until: at(30) };
    let arrival = InboxValueId {
        parameter: "/inbox/datastore-token".to_owned(),
        version: 7,
        written_at: at(-9),
    };
    let begin = Begin {
        adopted: Some(value("old")),
        minted: Some(Minted { held_at: BTreeMap::new(), ..value("new") }),
        imported: Some(Imported { arrival, refused: Some("it is weak".to_owned()) }),
        queued: Some(Queued {
            without: ["homelab".to_owned()].into(),
            ..Queued::new(RotationId("51ab".to_owned()), at(-3))
        }),
        ..Begin::new(id, Purpose::Rotate, SpecId::of(4, "{}"), lease)
    };
    let record = Record::new(token.clone(), life(0), at(0));
    let begun = record.after(Transition::Begin(Box::new(begin)), at(0)).expect("a rotation begins");
    let edited = Transition::Edited(Minted { held_at: BTreeMap::new(), ..value("edited") });
    begun.after(edited, at(0)).expect("somebody edits").to_save()
}

/// The entry of a key that expires at this time.
pub fn key_entry(expires_at: Timestamp) -> KeyEntry {
    KeyEntry { rotation: RotationId("3f0c".to_owned()), version: VersionNumber::new(2), expires_at }
}

/// The digest of a key.
pub fn key(key: &str) -> KeyDigest {
    KeyDigest::of(key)
}

/// The audit of a version.
pub fn audit(token: &TokenName, version: u64) -> Audit {
    Audit {
        token: token.clone(),
        version: VersionNumber::new(version),
        stage: Stage::Previous,
        rotation: RotationId("3f0c".to_owned()),
        sha256: Secret::verbatim("old".to_owned()).digest(),
        created_at: at(0),
        rotated_at: Some(at(10)),
        not_after: Some(at(900)),
        ended_at: None,
        selectors: vec!["/backend/datastore-token:12".to_owned()],
        timeline: Vec::new(),
        without: ["homelab".to_owned()].into(),
    }
}

/// The life of a record that was created this many seconds after 2026-11-01T00:00:00Z.
pub fn life(seconds: i64) -> Life {
    Life::new(at(seconds), 0xabcd)
}

/// A revision of the record that was created at 2026-11-01T00:00:00Z.
pub fn fence(revision: u64) -> Fence {
    Fence { life: Some(life(0)), revision }
}

/// The same view under another fence.
pub fn under(fence: Fence, view: Content) -> Content {
    match view {
        Content::Accepted { token, entries, .. } => Content::Accepted { token, fence, entries },
        Content::Presented { token, version, value, .. } => {
            Content::Presented { token, fence, version, value }
        }
    }
}

/// The presented view.
pub fn presented(token: &TokenName, revision: u64, value: &str) -> Content {
    Content::Presented {
        token: token.clone(),
        fence: fence(revision),
        version: VersionNumber::new(7),
        value: Secret::verbatim(value.to_owned()),
    }
}

/// The accepted view of a new version and of the one before, which has an end.
pub fn accepted(token: &TokenName, revision: u64) -> Content {
    let entry = |version: u64, stage, value: &str, not_after| {
        let value = Secret::verbatim(value.to_owned());
        Accepted {
            version: VersionNumber::new(version),
            stage,
            sha256: value.digest(),
            value: Some(value),
            not_after,
        }
    };
    Content::Accepted {
        token: token.clone(),
        fence: fence(revision),
        entries: vec![
            entry(7, Stage::Current, "ds_new", None),
            entry(6, Stage::Previous, "ds_old", Some(at(900))),
        ],
    }
}

/// The JSON pointers to every value in this JSON, itself included.
pub fn pointers(json: &Value) -> Vec<String> {
    let mut pointers = Vec::new();
    let mut rest = vec![(String::new(), json)];
    while let Some((pointer, value)) = rest.pop() {
        let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Object(fields) => {
                let fields = fields.iter();
                rest.extend(fields.map(|(name, it)| (format!("{pointer}/{}", escaped(name)), it)));
            }
            Value::Array(list) => {
                let list = list.iter().enumerate();
                rest.extend(list.map(|(index, it)| (format!("{pointer}/{index}"), it)));
            }
            _ => {}
        }
        pointers.push(pointer);
    }
    pointers
}
