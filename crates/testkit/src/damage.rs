//! JSON that was damaged on its way, and the errors that its readers must return.

use changeover_core::error::Error;

use crate::sample::pointers;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};
use serde_json::{Value, json};

/// Damage to some places of a JSON document.
#[derive(Clone, Debug)]
pub struct Damages(Vec<(Index, Damage)>);

impl Damages {
    pub fn befall(&self, json: &mut Value) {
        for (index, damage) in &self.0 {
            damage.befall(json, index);
        }
    }
}

pub fn damages() -> impl Strategy<Value = Damages> {
    vec((any::<Index>(), damage()), 1..4).prop_map(Damages)
}

/// Asserts that an error says what was tried and what to do, and that it is short however long its subject
/// may be.
pub fn assert_clear(error: &Error) {
    let message = error.to_string();
    assert!(message.len() < 2_000, "{} bytes: {}", message.len(), &message[..200]);
    assert!(message.contains(": "), "{message}");
}

/// A runtime whose time passes only while every task waits.
pub fn paused() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime")
}

/// Damage to one place of a document.
#[derive(Clone, Debug)]
enum Damage {
    IsNow(Value),
    IsMissing,
    HasAnother,
    IsThatOf(Index),
}

impl Damage {
    fn befall(&self, json: &mut Value, index: &Index) {
        let pointers = pointers(json);
        let pointer = index.get(&pointers);
        let parent =
            pointer.rsplit_once('/').map(|(parent, name)| (parent, name.replace("~1", "/")));
        match (self, parent) {
            (Damage::IsNow(value), _) => {
                *json.pointer_mut(pointer).expect("a pointer into it") = value.clone();
            }
            (Damage::IsThatOf(other), _) => {
                let other = json.pointer(&pointers[other.index(pointers.len())]).cloned();
                let other = other.expect("a pointer into it");
                *json.pointer_mut(pointer).expect("a pointer into it") = other;
            }
            (Damage::IsMissing, Some((parent, name))) => {
                if let Some(fields) = json.pointer_mut(parent).and_then(Value::as_object_mut) {
                    fields.remove(&name);
                }
            }
            (Damage::HasAnother, _) => {
                if let Some(fields) = json.pointer_mut(pointer).and_then(Value::as_object_mut) {
                    fields.insert("of_a_later_version".to_owned(), json!(1));
                }
            }
            (Damage::IsMissing, None) => {}
        }
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let values = vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(1_u64 << 53),
        json!(9_999_999_999_u64),
        json!(u32::MAX),
        json!(255),
        json!(1.5),
        json!(""),
        json!("x"),
        json!("\u{0}\u{1f511}\u{202e}"),
        json!("-009999-01-02T01:59:59.000Z"),
        json!("9999-12-30T22:00:00.000Z"),
        json!("2999-12-31T23:59:59.999Z"),
        json!("2000-01-01T00:00:00.000Z"),
        json!("2026-11-01T00:00:20.000Z"),
        json!([]),
        json!({}),
    ];
    prop_oneof![
        6 => select(values).prop_map(Damage::IsNow),
        4 => any::<Index>().prop_map(Damage::IsThatOf),
        2 => Just(Damage::IsMissing),
        1 => Just(Damage::HasAnother),
    ]
}
