//! Properties of the record's transition function that hold for every sequence of changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover_core::{
    record::{
        Begin, Held, LEASE_GRACE, Lease, Leg, Minted, Purpose, Record, RotationId, Step, Transition,
    },
    spec::{Side, SpecId},
};
use changeover_testkit::{amount, sample::life, scene::subject};
use changeover_token::{Digest, Fence, Sealed, Stage, VersionNumber};

use jiff::Timestamp;
use proptest::{prelude::*, test_runner::Config};

proptest! {
    #![proptest_config(Config { cases: amount::cases(512), failure_persistence: None, ..Config::default() })]

    #[test]
    fn change_sequences_keep_invariants(asks in prop::collection::vec(ask(), 1..120)) {
        let mut now = Timestamp::constant(1_793_491_200, 0);
        let mut record = Record::new(subject(), life(0), now);
        let mut minted = 0;
        for ask in asks {
            now += Duration::from_millis(ask.after);
            minted += 1;
            let change = ask.change(&record, minted, now);
            let words = format!("{change:?}");
            let before = record.clone();
            match record.after(change, now) {
                Ok(after) => {
                    holds(&before, &after, now).map_err(|broken| {
                        TestCaseError::fail(format!("{broken} by {words}\nfrom {before:#?}"))
                    })?;
                    // Each change is saved, so that the next view has a revision of its own.
                    record = after.to_save();
                    prop_assert!(record.fence() > before.fence());
                    prop_assert_eq!(record.life(), before.life());
                    let json = serde_json::to_value(&record).expect("JSON");
                    let read: Record = serde_json::from_value(json).expect("a record");
                    prop_assert_eq!(&read, &record, "a record reads back as it was saved");
                }
                Err(_) => prop_assert_eq!(&record, &before, "an illegal change leaves no trace"),
            }
        }
    }
}

/// Checks the promises that no change may break.
#[expect(clippy::too_many_lines, reason = "one statement an invariant")]
fn holds(before: &Record, after: &Record, now: Timestamp) -> Result<(), String> {
    let numbers: Vec<_> = after.versions().iter().map(|it| it.version).collect();
    let unless = |holds: bool, promise: &str| {
        if holds { Ok(()) } else { Err(format!("{promise} ({numbers:?})")) }
    };
    // At most one version is pending, one is current, and numbers only grow.
    let pending = |record: &Record| {
        let versions = record.versions().iter();
        versions.filter(|it| it.stage == Stage::Pending).map(|it| it.version).collect::<Vec<_>>()
    };
    unless(pending(after).len() <= 1, "two versions are pending")?;
    unless(
        after.versions().iter().filter(|it| it.stage == Stage::Current).count() <= 1,
        "two versions are current",
    )?;
    unless(
        before.in_stage(Stage::Current).is_none() || after.in_stage(Stage::Current).is_some(),
        "no version is current any more",
    )?;
    unless(numbers.windows(2).all(|pair| pair[0] > pair[1]), "numbers do not grow")?;
    unless(after.next_version() >= before.next_version(), "a number may be used again")?;
    // A version keeps its number, its value and its end.
    for version in after.versions() {
        let old = before.versions().iter().find(|it| it.version == version.version);
        match old {
            None => unless(version.version >= before.next_version(), "a number is used again")?,
            Some(old) => {
                unless(old.sha256 == version.sha256, "a version got another value")?;
                let ends = old.not_after.is_none() && version.not_after.is_some();
                let owed = before.owed().map(|owed| (owed.leg, owed.step));
                unless(
                    !ends || owed == Some((Leg::Migrate, Step::RollOut)),
                    "a version got its end before migrate was complete",
                )?;
                unless(
                    old.not_after.is_none() || old.not_after == version.not_after,
                    "the end of a version was moved",
                )?;
            }
        }
        unless(
            (version.stage == Stage::Previous) == version.not_after.is_some(),
            "exactly previous versions have an end",
        )?;
    }
    // Only a dropped or an ended version leaves the set, under the lease and without a write in doubt.
    let is_held = after.lease().is_some_and(|lease| lease.until > now);
    let was_presented = before.rotation().is_some_and(|rotation| rotation.presented);
    for gone in before.versions().iter().filter(|it| !numbers.contains(&it.version)) {
        let was_dropped = gone.stage == Stage::Pending && !was_presented;
        let has_ended = gone.not_after.is_some_and(|end| end <= now);
        unless(was_dropped || has_ended, "a live version left the set")?;
        unless(!before.is_unanswered(now), "the set changed while a write may still land")?;
        unless(is_held, "a version left the set without the lease")?;
    }
    // The same conditions hold for a mint.
    let is_new = numbers.iter().any(|it| *it >= before.next_version());
    unless(!is_new || !before.is_unanswered(now), "minted while a write may still land")?;
    unless(!is_new || is_held, "minted without the lease")?;
    // A view's fence never falls, and each change of a view has a revision of its own.
    for side in Side::BOTH {
        unless(after.view(side) >= before.view(side), "the fence of a view fell")?;
        unless(after.view(side) <= after.to_save().fence(), "a view is ahead of its record")?;
    }
    let accepted = |record: &Record| -> Vec<_> {
        let versions = record.versions().iter();
        versions.map(|it| (it.version, it.stage, it.not_after)).collect()
    };
    unless(
        accepted(before) == accepted(after)
            || after.view(Side::Verifiers) == after.to_save().fence(),
        "the accepted view changed without a revision of its own",
    )?;
    let presented = |record: &Record| record.presented().map(|it| it.version);
    unless(
        presented(before) == presented(after)
            || after.view(Side::Presenters) == after.to_save().fence(),
        "the presented view changed without a revision of its own",
    )?;
    // A write in doubt is compared after it may have landed, and an owed step has a due time.
    unless(after.unanswered_until() >= before.unanswered_until(), "a lost reply was forgotten")?;
    unless(
        !after.is_unanswered(now) || after.compare_at() <= after.unanswered_until().unwrap(),
        "nobody looks when a write whose reply was lost may have landed",
    )?;
    unless(
        after.owed().is_none() || after.due_at().is_some(),
        "a step is owed, and nobody ever comes",
    )?;
    // Only an expired lease passes to another holder.
    if let (Some(held), Some(holds)) = (before.lease(), after.lease()) {
        unless(
            held.holder == holds.holder || held.until + LEASE_GRACE <= now,
            "a live lease was taken away",
        )?;
    }
    Ok(())
}

/// The random part of a change.
#[derive(Clone, Debug)]
struct Ask {
    after: u64,
    what: u8,
    holder: u8,
    flag: bool,
}

fn ask() -> impl Strategy<Value = Ask> {
    let after = prop_oneof![4 => 1..2_000_u64, 1 => 30_000..60_000_u64, 1 => 200_000..400_000_u64];
    // Owed steps are the most frequent choice, because otherwise no rotation would end.
    (after, 0..25_u8, 0..3_u8, any::<bool>()).prop_map(|(after, what, holder, flag)| Ask {
        after,
        what,
        holder,
        flag,
    })
}

impl Ask {
    fn change(&self, record: &Record, minted: u64, now: Timestamp) -> Transition {
        let lease = Lease {
            holder: format!("holder {}", self.holder),
            until: now + Duration::from_secs(30),
        };
        match self.what {
            0..3 => self.begin(record, minted, lease),
            3 | 4 => Transition::Lease {
                lease,
                late_write: self.flag.then_some(Duration::from_secs(300)),
            },
            5 => Transition::Respecify(SpecId::of(minted as i64, "{}")),
            6 => Transition::Unanswered(now + Duration::from_secs(300)),
            7 => Transition::Repeat,
            8 => Transition::Retire,
            9 => Transition::Drop,
            10 => Transition::Await {
                due_at: now + Duration::from_secs(60),
                watcher: self.flag.then(|| "watcher".to_owned()),
            },
            11 => Transition::Hold(Held::new("object", "reason", "fix")),
            12 => Transition::Compared {
                drift: Vec::new(),
                places: BTreeSet::new(),
                again_after: OVERLAP,
            },
            // A step that is not owed is sometimes reported as done.
            13 => Transition::RolledOut { overlap: OVERLAP },
            14 => Transition::Published(BTreeMap::new()),
            24 => {
                let ahead = if self.flag { 0 } else { 1_000 };
                Transition::Surpass(Fence { revision: record.revision() + ahead, ..record.fence() })
            }
            _ => match record.owed().map(|owed| owed.step) {
                None => self.begin(record, minted, lease),
                Some(Step::Retire) => Transition::Retire,
                Some(Step::Publish) => Transition::Published(BTreeMap::new()),
                Some(Step::Sync) => Transition::Synced(BTreeMap::new()),
                Some(Step::RollOut) => Transition::RolledOut { overlap: OVERLAP },
            },
        }
    }

    fn begin(&self, record: &Record, minted: u64, lease: Lease) -> Transition {
        let value = |number: u64| Minted {
            sha256: Digest::of(format!("value {number}")),
            sealed: Sealed(number.to_be_bytes().to_vec()),
            held_at: BTreeMap::new(),
        };
        let is_first = record.next_version() == VersionNumber::new(1);
        let purpose = match (is_first, self.what % 3) {
            (false, 0) => Purpose::Publish,
            (false, 1) => Purpose::Repair,
            _ => Purpose::Rotate,
        };
        // A rotation of a token without a current version adopts the existing value, or creates one.
        let adopts = is_first && self.flag;
        let purpose = if is_first && !adopts { Purpose::Publish } else { purpose };
        let mints = purpose == Purpose::Rotate || (is_first && !adopts);
        let id = RotationId(format!("rotation {minted}"));
        Transition::Begin(Box::new(Begin {
            adopted: adopts.then(|| value(minted * 2)),
            minted: mints.then(|| value(minted * 2 + 1)),
            repaired: if self.flag { vec![Side::Verifiers] } else { Vec::new() },
            leaves_alone: [None, Some(Side::Presenters), Some(Side::Verifiers)]
                [usize::from(self.holder) % 3]
                .filter(|side| {
                    purpose == Purpose::Repair && (*side != Side::Verifiers || !self.flag)
                }),
            // The value was already written to a publication.
            is_presented: mints && !is_first && self.flag,
            ..Begin::new(id, purpose, SpecId::of(1, "{}"), lease)
        }))
    }
}

const OVERLAP: Duration = Duration::from_secs(20);

#[test]
fn held_rotation_is_retried_with_growing_pauses() {
    let mut now = Timestamp::constant(1_793_491_200, 0);
    let ask = Ask { after: 0, what: 2, holder: 0, flag: true };
    let record = Record::new(subject(), life(0), now);
    let begun = ask.change(&record, 1, now);
    let mut record = record.after(begun, now).unwrap().to_save();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let held = Transition::Hold(Held::new("object", "reason", "fix"));
        record = record.after(held, now).unwrap().to_save();
        let due_at = record.due_at().unwrap();
        pauses.push(due_at.duration_since(now).as_secs() / 60);
        now = due_at;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn restored_record_is_raised_above_what_it_found() {
    let now = Timestamp::constant(1_793_491_200, 0);
    let ask = Ask { after: 0, what: 2, holder: 0, flag: true };
    let record = Record::new(subject(), life(0), now);
    let begun = record.after(ask.change(&record, 1, now), now).unwrap().to_save();
    let found = Fence { revision: 4_000, ..begun.fence() };
    let raised = begun.after(Transition::Surpass(found), now).unwrap();
    assert!(raised.view(Side::Verifiers) > found, "what is published next is above it");
    assert_eq!(raised.view(Side::Verifiers), raised.to_save().fence(), "and saved before");
    assert_eq!(raised.owed().map(|owed| owed.step), Some(Step::Publish));

    // An older record is below this one, whatever its revision. A newer one is left for a person to decide.
    for older in [None, Some(life(-60))] {
        let above = begun.after(Transition::Surpass(Fence { life: older, ..found }), now).unwrap();
        assert_eq!(above.revision(), begun.revision());
        assert!(above.view(Side::Verifiers) > begun.view(Side::Verifiers));
    }
    let newer = Fence { life: Some(life(60)), ..found };
    assert!(begun.after(Transition::Surpass(newer), now).is_err());
    let damage = Fence { revision: u64::MAX, ..found };
    assert!(begun.after(Transition::Surpass(damage), now).is_err());
}

#[test]
fn expired_lease_is_taken_over_after_grace() {
    let now = Timestamp::constant(1_793_491_200, 0);
    let ask = Ask { after: 0, what: 2, holder: 0, flag: true };
    let record = Record::new(subject(), life(0), now);
    let begun = ask.change(&record, 1, now);
    let record = record.after(begun, now).unwrap().to_save();
    let until = record.lease().unwrap().until;
    let late_write = Duration::from_secs(300);
    let take = |at: Timestamp| {
        let lease = Lease { holder: "other".to_owned(), until: at + Duration::from_secs(30) };
        record.after(Transition::Lease { lease, late_write: Some(late_write) }, at)
    };
    assert!(take(until).is_err());
    assert!(take(until + LEASE_GRACE - Duration::from_millis(1)).is_err());
    let taken = take(until + LEASE_GRACE).unwrap();
    // The last write of the former holder was never answered, and may still land.
    assert_eq!(taken.unanswered_until(), Some(until + late_write));
}
