//! Tests of the world in memory: violations that it must detect are committed by hand.

use std::{collections::BTreeMap, time::Duration};

use changeover_core::{
    ports::{Ports, Save, Saved},
    record::{Begin, KeyDigest, KeyEntry, Lease, Minted, Purpose, Record, RotationId, Transition},
    spec::{Publication, Side, SpecId},
};
use changeover_testkit::{
    scene::*,
    world::{Fault, Faults, LEASE, LONG, MemoryWorld, place},
};
use changeover_token::{Accepted, AcceptedForm, Content, Secret, Stage, VersionNumber};

use jiff::Timestamp;
use serde_json::{Value, json};

const OVERLAP: Duration = Duration::from_secs(15);

#[tokio::test(start_paused = true)]
async fn presenting_before_verifiers_know_is_noticed() {
    let hand = Hand::with_pending(&items()).await;
    // Expand is reported as done without being published.
    let expanded =
        [Transition::Published(BTreeMap::new()), Transition::Synced(BTreeMap::new()), ROLLED];
    let record = hand.saved(expanded).await;
    hand.present(&record).await;
    hand.assert_noticed("presents version 2");
}

#[tokio::test(start_paused = true)]
async fn early_presentation_to_cached_verifier_is_noticed() {
    let hand = Hand::with_pending(&items()).await;
    hand.accept(&hand.record()).await;
    // Readers of the accepted view hold their copy for two seconds.
    let expanded =
        [Transition::Published(BTreeMap::new()), Transition::Synced(BTreeMap::new()), ROLLED];
    let record = hand.saved(expanded).await;
    hand.present(&record).await;
    hand.assert_noticed("a reader of dynamodb:configuration/id=accepted");
}

#[tokio::test(start_paused = true)]
async fn presentation_before_verifier_pods_are_replaced_is_noticed() {
    let hand = Hand::with_pending(&workloads()).await;
    hand.accept(&hand.record()).await;
    hand.memory.pass(Duration::from_secs(2 * 60 * 60)).await;
    let expanded =
        [Transition::Published(BTreeMap::new()), Transition::Synced(BTreeMap::new()), ROLLED];
    let record = hand.saved(expanded).await;
    hand.present(&record).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The presenters' pods get the new token when they are replaced.
    let presenters = &hand.spec(Side::Presenters).workloads;
    let stamp = changeover_core::ports::Stamp {
        side: Side::Presenters,
        token: subject(),
        fence: record.view(Side::Presenters),
    };
    let world = hand.memory.ports();
    let within = Duration::from_secs(10);
    world.copies.refresh(&[&presenters[0]], "by-hand", &BTreeMap::new(), within).await;
    world.workloads.stamp(&presenters[0], &stamp).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    hand.assert_noticed(&format!("a pod of {}", deployed("datastore")));
}

#[tokio::test(start_paused = true)]
async fn end_before_presenters_moved_is_noticed() {
    let hand = Hand::with_pending(&items()).await;
    let record = hand.saved_with(|json| {
        json["versions"][1]["not_after"] = json!("2026-11-01T00:05:00.000Z");
    });
    hand.accept(&record.await).await;
    hand.memory.ports().clock.sleep_until("2026-11-01T00:05:01Z".parse().unwrap()).await;
    hand.assert_noticed("presents version 1");
}

#[tokio::test(start_paused = true)]
async fn value_without_a_record_is_noticed() {
    let hand = Hand::with_pending(&items()).await;
    let record = hand.record();
    let value = Secret::verbatim("from-nowhere".to_owned());
    hand.write(
        Side::Presenters,
        &Content::Presented {
            token: subject(),
            fence: record.view(Side::Presenters),
            version: VersionNumber::new(1),
            value,
        },
    )
    .await;
    hand.assert_noticed("no saved record says so");
}

#[tokio::test(start_paused = true)]
async fn records_that_break_a_promise_are_noticed() {
    type Break = fn(&mut Value);
    let breaks: [(&str, Break); 6] = [
        ("two pending versions", |json| json["versions"][1]["stage"] = json!("pending")),
        ("live version 1 was pushed out", |json| {
            json["versions"].as_array_mut().unwrap().pop();
        }),
        ("has another value than before", |json| {
            json["versions"][0]["sha256"] = json["versions"][1]["sha256"].clone();
        }),
        ("not newest first", |json| json["versions"].as_array_mut().unwrap().reverse()),
        ("the fence of the view of verifiers fell", |json| {
            json["accepted_revision"] = json!(0);
        }),
        ("changed under its fence", |json| {
            json["versions"][1]["not_after"] = json!("2026-11-01T00:05:00.000Z");
            json["accepted_revision"] = json["kept"].take();
        }),
    ];
    for (promise, break_it) in breaks {
        let hand = Hand::with_pending(&items()).await;
        let kept = hand.record().view(Side::Verifiers).revision;
        hand.saved_with(|json| {
            json["kept"] = json!(kept);
            break_it(json);
            json.as_object_mut().unwrap().remove("kept");
        })
        .await;
        hand.assert_noticed(promise);
    }
}

#[tokio::test(start_paused = true)]
async fn unfenced_write_at_lease_end_is_noticed() {
    for (spec, is_noticed) in [(items(), false), (parameters(), true)] {
        let hand = Hand::with_pending(&spec).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        hand.accept(&hand.record()).await;
        assert_eq!(hand.memory.violation().is_some(), is_noticed, "{:?}", hand.memory.violation());
    }
}

#[tokio::test(start_paused = true)]
async fn drop_of_presented_version_is_noticed() {
    let hand = Hand::with_pending(&items()).await;
    hand.accept(&hand.record()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let expanded =
        [Transition::Published(BTreeMap::new()), Transition::Synced(BTreeMap::new()), ROLLED];
    hand.saved(expanded).await;
    hand.saved_with(|json| {
        json["versions"].as_array_mut().unwrap().remove(0);
    })
    .await;
    hand.assert_noticed("live version 2 was pushed out");
}

#[tokio::test(start_paused = true)]
async fn save_from_stale_record_is_refused() {
    let hand = Hand::with_pending(&items()).await;
    let world = hand.memory.ports();
    let stale = hand.record();
    let with_due_at = Transition::Await { due_at: hand.memory.now(), watcher: None };
    hand.saved([with_due_at]).await;
    let record = stale.to_save();
    let save = Save { replaces: Some(stale.fence()), record: &record, key: None, audit: &[] };
    assert_eq!(world.records.save(save).await.unwrap(), Saved::Overtaken);
    let save = Save { replaces: None, record: &record, key: None, audit: &[] };
    assert_eq!(world.records.save(save).await.unwrap(), Saved::Overtaken);
    let with_due_at =
        world.records.heartbeat(&subject(), stale.fence(), hand.memory.now()).await.unwrap();
    assert_eq!(with_due_at, Saved::Overtaken);
}

#[tokio::test(start_paused = true)]
async fn key_is_taken_once() {
    let hand = Hand::with_pending(&items()).await;
    let world = hand.memory.ports();
    let record = hand.record();
    let entry = KeyEntry {
        rotation: RotationId("by hand".to_owned()),
        version: VersionNumber::new(2),
        expires_at: hand.memory.now() + Duration::from_secs(60),
    };
    let key = KeyDigest::of("new");
    let join = async || world.records.join(&subject(), record.fence(), &key, &entry).await;
    assert_eq!(join().await.unwrap(), Saved::Saved);
    assert_eq!(join().await.unwrap(), Saved::Overtaken);
    let loaded = world.records.load(&subject(), Some(&key)).await.unwrap();
    assert_eq!(loaded.key, Some(entry));
    tokio::time::sleep(Duration::from_secs(61)).await;
    let loaded = world.records.load(&subject(), Some(&key)).await.unwrap();
    assert_eq!(loaded.key, None, "an expired key reads as absent");
}

#[tokio::test(start_paused = true)]
async fn item_refuses_older_view_but_parameter_takes_it() {
    for (spec, refuses) in [(items(), true), (parameters(), false)] {
        let hand = Hand::with_pending(&spec).await;
        let old = hand.presented(&hand.record());
        let accepted = hand.accepted(&hand.record());
        hand.write(Side::Verifiers, &accepted).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        let expanded =
            [Transition::Published(BTreeMap::new()), Transition::Synced(BTreeMap::new()), ROLLED];
        let record = hand.saved(expanded).await;
        hand.present(&record).await;
        let publication = &hand.spec(Side::Presenters).publications[0];
        let world = hand.memory.ports();
        let written = world.publications.write(publication, None, &old).await;
        assert_eq!(written.is_err_and(|error| error.ahead.is_some()), refuses);
        assert_eq!(hand.memory.violation(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn unanswered_write_lands_late() {
    let memory = in_service(1, &parameters()).await;
    let value = || memory.value(&place("ssm:/backend/token/accepted"), Side::Verifiers);
    let late = Duration::from_secs(60);
    let mut call = 0;
    // The number of the call that writes first is not fixed: try each call until one is a write, and lose
    // its reply.
    let (run, before) = loop {
        call += 1;
        let before = value();
        let writes = memory.calls(Some("write"));
        let faults = Faults::at(call, Fault::CutLate(late));
        let id = format!("a {call}");
        let run = memory.run(&id, rotate(&id), LONG, faults).await;
        if memory.calls(Some("write")) > writes {
            break (run, before);
        }
        memory.sweep_until_rest(&subject()).await;
    };
    assert_eq!(run.ending.outcome(), "cut");
    assert_eq!(value(), before);
    memory.pass(late - Duration::from_secs(1)).await;
    assert_eq!(value(), before);
    memory.pass(Duration::from_secs(2)).await;
    assert_ne!(value(), before);
}

/// Performs by hand the steps that a session performs.
struct Hand {
    memory: MemoryWorld,
}

const ROLLED: Transition = Transition::RolledOut { overlap: OVERLAP };

impl Hand {
    /// Creates a world in which version 1 is in service, version 2 is pending and nothing of version 2 is
    /// published.
    async fn with_pending(spec: &Value) -> Self {
        let memory = in_service(1, spec).await;
        let hand = Self { memory };
        let world = hand.memory.ports();
        let value = Secret::verbatim("pending".to_owned());
        let number = VersionNumber::new(2);
        let sealed = world.records.seal(&subject(), number, &value).await.unwrap();
        let record = hand.record();
        let id = RotationId("by hand".to_owned());
        let lease = Lease { holder: "hand".to_owned(), until: hand.memory.now() + LEASE };
        let begin = Transition::Begin(Box::new(Begin {
            minted: Some(Minted { sha256: value.digest(), sealed, held_at: BTreeMap::new() }),
            ..Begin::new(id, Purpose::Rotate, SpecId::of(1, "{}"), lease)
        }));
        let begun = record.after(begin, hand.memory.now()).unwrap().to_save();
        let key = KeyDigest::of("by hand");
        let entry = KeyEntry {
            rotation: RotationId("by hand".to_owned()),
            version: number,
            expires_at: Timestamp::MAX,
        };
        let replaces = Some(record.fence());
        let save = Save { replaces, record: &begun, key: Some((&key, &entry)), audit: &[] };
        assert_eq!(world.records.save(save).await.unwrap(), Saved::Saved);
        assert_eq!(hand.memory.violation(), None);
        hand
    }

    fn record(&self) -> Record {
        self.memory.record(&subject()).expect("a record")
    }

    fn spec(&self, side: Side) -> changeover_core::spec::SideSpec {
        self.memory.spec(&subject()).side(side).clone()
    }

    /// Saves the next record, with the lease renewed and these changes applied.
    async fn saved(&self, changes: impl IntoIterator<Item = Transition>) -> Record {
        let before = self.record();
        let now = self.memory.now();
        let lease = Lease { holder: "hand".to_owned(), until: now + LEASE };
        let changed = [Transition::Lease { lease, late_write: None }]
            .into_iter()
            .chain(changes)
            .fold(before.clone(), |record, change| record.after(change, now).unwrap());
        self.save(&before, changed.to_save()).await
    }

    /// Saves the next record with an edit that no change makes.
    async fn saved_with(&self, break_it: impl FnOnce(&mut Value)) -> Record {
        let before = self.record();
        let mut json = serde_json::to_value(before.to_save()).unwrap();
        json["accepted_revision"] = json!(before.revision() + 1);
        break_it(&mut json);
        self.save(&before, serde_json::from_value(json).unwrap()).await
    }

    async fn save(&self, before: &Record, record: Record) -> Record {
        let world = self.memory.ports();
        let replaces = Some(before.fence());
        let save = Save { replaces, record: &record, key: None, audit: &[] };
        assert_eq!(world.records.save(save).await.unwrap(), Saved::Saved);
        record
    }

    fn accepted(&self, record: &Record) -> Content {
        let entries = record.versions().iter().map(|version| Accepted {
            version: version.version,
            stage: version.stage,
            sha256: version.sha256,
            value: None,
            not_after: version.not_after,
        });
        let fence = record.view(Side::Verifiers);
        Content::Accepted { token: subject(), fence, entries: entries.collect() }
    }

    fn presented(&self, record: &Record) -> Content {
        let version = record.presented().expect("a version");
        let value = match version.stage {
            Stage::Pending => "pending".to_owned(),
            _ => {
                let place = &self.spec(Side::Presenters).publications[0].place;
                self.memory.value(place, Side::Presenters)
            }
        };
        Content::Presented {
            token: subject(),
            fence: record.view(Side::Presenters),
            version: version.version,
            value: Secret::verbatim(value),
        }
    }

    async fn accept(&self, record: &Record) {
        self.write(Side::Verifiers, &self.accepted(record)).await;
    }

    async fn present(&self, record: &Record) {
        self.write(Side::Presenters, &self.presented(record)).await;
    }

    async fn write(&self, side: Side, content: &Content) {
        let Ports { publications, .. } = self.memory.ports();
        for publication in self.spec(side).publications {
            let Publication { form, .. } = &publication;
            assert_eq!(*form, AcceptedForm::Digests);
            publications.write(&publication, None, content).await.expect("a write");
        }
    }

    fn assert_noticed(&self, what: &str) {
        let noticed = self.memory.violation().expect("nothing was noticed");
        let first = noticed.lines().next().unwrap_or_default();
        assert!(first.contains(what), "{first:?} does not say {what:?}");
    }
}
