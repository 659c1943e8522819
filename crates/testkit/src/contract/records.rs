//! Guarantees of a record store.

use std::time::Duration;

use changeover_core::{
    error::{Error, Kind},
    ports::{Save, Saved},
    record::{Audit, Loaded, Record},
};
use changeover_token::{Digest, Fence, Secret, TokenName, VersionNumber};

use super::Stores;
use crate::sample::{audit, bare_record, begun_record, fence, key, key_entry, life};

use jiff::Timestamp;

const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

fn alone(record: &Record, replaces: Option<u64>) -> Save<'_> {
    Save { replaces: replaces.map(fence), record, key: None, audit: &[] }
}

impl Stores {
    async fn saved(&self, record: &Record, replaces: Option<u64>) -> Saved {
        self.records.save(alone(record, replaces)).await.expect("an answer")
    }

    async fn loaded(&self, token: &TokenName, name: Option<&str>) -> Loaded {
        let key = name.map(key);
        self.records.load(token, key.as_ref()).await.expect("an answer")
    }

    /// A week from now, in whole seconds like the time to live of a key.
    fn in_a_week(&self) -> Timestamp {
        let time = self.clock.now() + WEEK;
        Timestamp::from_second(time.as_second()).expect("a time")
    }
}

pub async fn saves_only_if_unmoved(stores: &Stores) {
    let token = stores.token("unmoved");
    let first = bare_record(&token);
    let second = first.to_save();
    assert_eq!(stores.saved(&second, Some(1)).await, Saved::Overtaken, "there is none yet");
    assert_eq!(stores.saved(&first, None).await, Saved::Saved);
    assert_eq!(stores.saved(&first, None).await, Saved::Overtaken, "there is one");
    assert_eq!(stores.saved(&second, Some(1)).await, Saved::Saved);
    assert_eq!(stores.saved(&second, Some(1)).await, Saved::Overtaken, "it has moved");
    assert_eq!(stores.loaded(&token, None).await.record, Some(second));
}

pub async fn saves_once_of_two_at_a_time(stores: &Stores) {
    let token = stores.token("two");
    let record = bare_record(&token);
    let (one, other) = tokio::join!(stores.saved(&record, None), stores.saved(&record, None));
    let landed = [one, other].iter().filter(|saved| **saved == Saved::Saved).count();
    assert_eq!(landed, 1);
}

pub async fn reads_back_what_was_saved(stores: &Stores) {
    let token = stores.token("back");
    let record = begun_record(&token);
    assert_eq!(stores.saved(&record, None).await, Saved::Saved);
    assert_eq!(stores.loaded(&token, None).await.record, Some(record.clone()));
    assert_eq!(stores.loaded(&token, Some("k")).await.record, Some(record));
}

pub async fn knows_nothing_of_what_was_never_saved(stores: &Stores) {
    let token = stores.token("nothing");
    for key in [None, Some("k")] {
        let loaded = stores.loaded(&token, key).await;
        assert!(loaded.record.is_none() && loaded.key.is_none());
    }
    let audit = stores.records.audit(&token, VersionNumber::new(1)).await;
    assert_eq!(audit.expect("an answer"), None);
    let due_at = stores.clock.now();
    let another = Fence { life: Some(life(60)), revision: 1 };
    let with_due_at = stores.records.heartbeat(&token, another, due_at).await.expect("an answer");
    assert_eq!(with_due_at, Saved::Overtaken, "another life");
    let with_due_at = stores.records.heartbeat(&token, fence(1), due_at).await;
    assert_eq!(with_due_at.expect("an answer"), Saved::Overtaken);
    let joined =
        stores.records.join(&token, fence(1), &key("k"), &key_entry(stores.in_a_week())).await;
    assert_eq!(joined.expect("an answer"), Saved::Overtaken);
}

pub async fn saves_a_key_once_and_all_or_nothing(stores: &Stores) {
    let token = stores.token("key");
    let (digest, entry) = (key("k"), key_entry(stores.in_a_week()));
    let first = bare_record(&token);
    let save = Save { key: Some((&digest, &entry)), ..alone(&first, None) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
    assert_eq!(stores.loaded(&token, Some("k")).await.key, Some(entry.clone()));
    assert_eq!(stores.loaded(&token, Some("another")).await.key, None);

    let second = first.to_save();
    let audited = [audit(&token, 1)];
    let save = Save { key: Some((&digest, &entry)), audit: &audited, ..alone(&second, Some(1)) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Overtaken);
    assert_eq!(stores.loaded(&token, None).await.record, Some(first), "nothing of it was saved");
    let audit = stores.records.audit(&token, VersionNumber::new(1)).await;
    assert_eq!(audit.expect("an answer"), None, "nothing of it was saved");

    // Conversely, the key is not added if the record has moved.
    let (unused, third) = (key("unused"), second.to_save());
    let save = Save { key: Some((&unused, &entry)), ..alone(&third, Some(2)) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Overtaken);
    assert_eq!(stores.loaded(&token, Some("unused")).await.key, None);
}

pub async fn forgets_a_key_in_time(stores: &Stores) {
    let token = stores.token("expired");
    let expired = key_entry(stores.clock.now() - Duration::from_secs(1));
    let digest = key("k");
    let first = bare_record(&token);
    let save = Save { key: Some((&digest, &expired)), ..alone(&first, None) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
    assert_eq!(stores.loaded(&token, Some("k")).await.key, None);

    let entry = key_entry(stores.in_a_week());
    let second = first.to_save();
    let save = Save { key: Some((&digest, &entry)), ..alone(&second, Some(1)) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
    assert_eq!(stores.loaded(&token, Some("k")).await.key, Some(entry));
}

pub async fn adds_a_key_only_to_the_record_that_was_read(stores: &Stores) {
    let token = stores.token("join");
    let record = bare_record(&token);
    assert_eq!(stores.saved(&record, None).await, Saved::Saved);
    let entry = key_entry(stores.in_a_week());
    let join = async |revision| {
        let joined = stores.records.join(&token, fence(revision), &key("k"), &entry).await;
        joined.expect("an answer")
    };
    assert_eq!(join(2).await, Saved::Overtaken);
    let another = stores.records.join(&token, Fence::bare(1), &key("k"), &entry).await;
    assert_eq!(another.expect("an answer"), Saved::Overtaken, "another life");
    assert_eq!(stores.loaded(&token, Some("k")).await.key, None);
    assert_eq!(join(1).await, Saved::Saved);
    let loaded = stores.loaded(&token, Some("k")).await;
    assert_eq!(loaded.key, Some(entry.clone()));
    assert_eq!(loaded.record, Some(record), "joining changes nothing of the record");
    assert_eq!(join(1).await, Saved::Overtaken, "the key is there");
}

pub async fn postpones_without_a_new_revision(stores: &Stores) {
    let token = stores.token("heartbeat");
    let record = begun_record(&token);
    assert_eq!(stores.saved(&record, None).await, Saved::Saved);
    let due_at = stores.clock.now() + Duration::from_secs(60);
    let with_due_at = stores.records.heartbeat(&token, fence(2), due_at).await.expect("an answer");
    assert_eq!(with_due_at, Saved::Overtaken, "another revision");
    let another = Fence { life: Some(life(60)), revision: 1 };
    let with_due_at = stores.records.heartbeat(&token, another, due_at).await.expect("an answer");
    assert_eq!(with_due_at, Saved::Overtaken, "another life");
    let with_due_at = stores.records.heartbeat(&token, fence(1), due_at).await.expect("an answer");
    assert_eq!(with_due_at, Saved::Saved);
    let loaded = stores.loaded(&token, None).await.record;
    assert_eq!(loaded, Some(record.with_due_at(due_at)));
    assert_eq!(stores.saved(&record.to_save(), Some(1)).await, Saved::Saved, "the fence stands");
}

pub async fn counts_failed_runs_beside_the_record(stores: &Stores) {
    let token = stores.token("fails");
    let error = Error::new(Kind::BadSpec, "read the spec of", "it is empty", "fill it in");
    let now = stores.clock.now();
    let count = async |now, latest| {
        let counted = stores.records.back_off(&token, &error, now, latest).await;
        counted.expect("an answer")
    };
    assert_eq!(count(now, None).await, None, "there is no record");
    let record = bare_record(&token).with_due_at(now - Duration::from_secs(1));
    assert_eq!(stores.saved(&record, None).await, Saved::Saved);

    let first = count(now, None).await.expect("it was due");
    assert_eq!((first.tries, first.error.as_str()), (1, "BadSpec"));
    assert_eq!(first.message, error.to_string());
    let loaded = stores.loaded(&token, Some("k")).await;
    assert_eq!(loaded.failing.as_ref(), Some(&first));
    let again = now + Duration::from_secs(60);
    let record = record.with_due_at(again);
    assert_eq!(loaded.record, Some(record.clone()), "only its time has moved");
    assert_eq!(count(now, None).await, None, "it is not due any more");

    let second = count(again, None).await.expect("it was due");
    assert_eq!((second.tries, second.since), (2, first.since));
    let third_at = again + Duration::from_secs(120);
    let record = record.with_due_at(third_at);
    assert_eq!(stores.loaded(&token, None).await.record, Some(record.clone()));
    let end = third_at + Duration::from_secs(5);
    assert_eq!(count(third_at, Some(end)).await.expect("it was due").tries, 3);
    let record = record.with_due_at(end);
    assert_eq!(stores.loaded(&token, None).await.record, Some(record.clone()));

    assert_eq!(stores.saved(&record.to_save(), Some(1)).await, Saved::Saved, "the fence stands");
    assert_eq!(stores.loaded(&token, None).await.failing, None, "a save ends it");
}

pub async fn lists_what_fails_apart_from_what_is_due(stores: &Stores) {
    let error = Error::new(Kind::BadSpec, "read the spec of", "it is empty", "fill it in");
    let now = stores.clock.now();
    let [healthy, failing] = ["apart-healthy", "apart-failing"].map(|name| stores.token(name));
    for token in [&healthy, &failing] {
        let record = bare_record(token).with_due_at(now - Duration::from_secs(1));
        assert_eq!(stores.saved(&record, None).await, Saved::Saved);
    }
    let counted = stores.records.back_off(&failing, &error, now, None).await.expect("an answer");
    assert!(counted.is_some());
    let own = |found: Vec<(TokenName, Timestamp)>| -> Vec<_> {
        let found = found.into_iter();
        found.filter(|(token, _)| [&healthy, &failing].contains(&token)).collect()
    };
    // The index follows its table with a delay.
    let (mut due, mut fails) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let later = now + Duration::from_secs(600);
        due = own(stores.records.due(later, 1000).await.expect("an answer"));
        fails = own(stores.records.failing(1000).await.expect("an answer"));
        if due.len() == 1 && fails.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(due, [(healthy.clone(), now - Duration::from_secs(1))]);
    assert_eq!(fails, [(failing.clone(), now + Duration::from_secs(60))]);
}

pub async fn forgets_a_record_and_no_more(stores: &Stores) {
    let token = stores.token("forget");
    let seventh = VersionNumber::new(7);
    let forget =
        async |fence| stores.records.forget(&token, fence, seventh).await.expect("an answer");
    assert_eq!(forget(fence(1)).await, Saved::Overtaken, "there is none");
    let (digest, entry) = (key("k"), key_entry(stores.in_a_week()));
    let first = begun_record(&token);
    let audited = [audit(&token, 7)];
    let save = Save { key: Some((&digest, &entry)), audit: &audited, ..alone(&first, None) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
    assert_eq!(forget(fence(2)).await, Saved::Overtaken, "another revision");
    assert_eq!(forget(fence(1)).await, Saved::Saved);

    let loaded = stores.loaded(&token, Some("k")).await;
    assert!(loaded.record.is_none() && loaded.failing.is_none());
    assert_eq!(loaded.last_version, seventh);
    assert_eq!(loaded.key, Some(entry), "keys stay");
    let audit = stores.records.audit(&token, seventh).await.expect("an answer");
    assert_eq!(audit.as_ref(), Some(&audited[0]), "the audit stays");
    // An invocation that still has the record in hand comes too late.
    assert_eq!(forget(fence(1)).await, Saved::Overtaken);
    assert_eq!(stores.saved(&first.to_save(), Some(1)).await, Saved::Overtaken);
    let error = Error::new(Kind::BadSpec, "read the spec of", "it is empty", "fill it in");
    let with_due_at = stores.records.heartbeat(&token, fence(1), stores.clock.now()).await;
    assert_eq!(with_due_at.expect("an answer"), Saved::Overtaken);
    let counted = stores.records.back_off(&token, &error, stores.clock.now(), None).await;
    assert_eq!(counted.expect("an answer"), None);

    assert_eq!(stores.saved(&bare_record(&token), None).await, Saved::Saved, "another one begins");
    let loaded = stores.loaded(&token, None).await;
    assert_eq!(loaded.record, Some(bare_record(&token)));
}

pub async fn tells_what_is_due_in_order(stores: &Stores) {
    let now = stores.clock.now();
    let before = |seconds| now - Duration::from_secs(seconds);
    let table = [
        (stores.token("due-b"), before(20)),
        (stores.token("due-c"), before(10)),
        (stores.token("due-a"), before(30)),
    ];
    for (token, due_at) in &table {
        let record = bare_record(token).with_due_at(*due_at);
        assert_eq!(stores.saved(&record, None).await, Saved::Saved);
    }
    let later = bare_record(&stores.token("due-later"));
    let later = later.with_due_at(now + Duration::from_secs(600));
    assert_eq!(stores.saved(&later, None).await, Saved::Saved);
    assert_eq!(stores.saved(&bare_record(&stores.token("due-never")), None).await, Saved::Saved);

    let mut expected = table.to_vec();
    expected.sort_by_key(|(_, due_at)| *due_at);
    // The index follows its table with a delay.
    let mut found = Vec::new();
    for _ in 0..100 {
        found = stores.records.due(now, 1000).await.expect("an answer");
        found.retain(|(token, _)| token.as_str().starts_with("due-"));
        found.retain(|(token, _)| token.as_str().ends_with(&stores.suffix));
        if found.len() == expected.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found, expected);
    let first = stores.records.due(now, 1).await.expect("an answer");
    assert_eq!(first.len(), 1);
    assert!(first[0].1 <= expected[0].1, "the longest overdue first");
}

pub async fn keeps_the_audit(stores: &Stores) {
    let token = stores.token("audit");
    let first = bare_record(&token);
    let mut entry = audit(&token, 7);
    let save = Save { audit: std::slice::from_ref(&entry), ..alone(&first, None) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
    let read =
        async || stores.records.audit(&token, VersionNumber::new(7)).await.expect("an answer");
    assert_eq!(read().await.as_ref(), Some(&entry));

    entry.ended_at = Some(stores.clock.now());
    entry.selectors.clear();
    let second = first.to_save();
    let save = Save { audit: std::slice::from_ref(&entry), ..alone(&second, Some(1)) };
    assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
    assert_eq!(read().await.as_ref(), Some(&entry), "each entry is written whole");
}

pub async fn finds_a_value_in_the_audit(stores: &Stores) {
    let token = stores.token("found");
    let (one, other) = (Digest::of("one"), Digest::of("other"));
    let entries: Vec<_> = (1..=30)
        .map(|number| {
            let sha256 = if number == 3 || number == 17 { one } else { other };
            Audit { sha256, ..audit(&token, number) }
        })
        .collect();
    let mut record = bare_record(&token);
    for (replaces, entry) in entries.iter().enumerate() {
        let replaces = u64::try_from(replaces).ok().filter(|revision| *revision > 0);
        let save = Save { audit: std::slice::from_ref(entry), ..alone(&record, replaces) };
        assert_eq!(stores.records.save(save).await.expect("an answer"), Saved::Saved);
        record = record.to_save();
    }
    let found = async |token, digest| {
        stores.records.version_of(token, &digest).await.expect("an answer").map(VersionNumber::get)
    };
    assert_eq!(found(&token, one).await, Some(17), "the newest");
    assert_eq!(found(&token, other).await, Some(30));
    assert_eq!(found(&token, Digest::of("a third")).await, None);
    assert_eq!(found(&stores.token("another"), one).await, None, "its own audit only");
}

pub async fn opens_what_it_sealed(stores: &Stores) {
    let token = stores.token("seal");
    let version = VersionNumber::new(7);
    let value = Secret::verbatim("ds_s3cret".to_owned());
    let sealed = stores.records.seal(&token, version, &value).await.expect("sealed");
    assert!(!sealed.0.windows(6).any(|bytes| bytes == b"s3cret"));
    let opened = stores.records.open(&token, version, &sealed).await.expect("opened");
    assert_eq!(opened.expose(), value.expose());
}
