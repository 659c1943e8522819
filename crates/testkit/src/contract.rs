//! Guarantees of the ports. They are checked against the world in memory, and by `make test` against the
//! emulator of AWS, which is what makes the world in memory trustworthy.

pub mod publications;
pub mod records;
pub mod secrets;

use std::sync::Arc;

use changeover_core::{
    clock::Clock,
    ports::{Publications, RecordStore},
    spec::{ItemKey, KeyValue, ParameterName, Place, Publication},
};
use changeover_token::{AcceptedForm, TokenName};

use crate::{sample::named, world::MemoryWorld};

/// The stores of one world.
pub struct Stores {
    pub records: Arc<dyn RecordStore>,
    pub publications: Arc<dyn Publications>,
    pub clock: Clock,
    /// A table of items whose key is the text `id`.
    pub items: String,
    /// The end of all names of this test run, and of no other names.
    pub suffix: String,
}

impl Stores {
    pub fn in_memory() -> Self {
        let world = MemoryWorld::new(0).ports();
        Self {
            records: world.records,
            publications: world.publications,
            clock: world.clock,
            items: "items".to_owned(),
            suffix: "in-memory".to_owned(),
        }
    }

    pub fn token(&self, name: &str) -> TokenName {
        named(&format!("{name}-{}", self.suffix))
    }

    pub fn parameter(&self, name: &str) -> Publication {
        let name = ParameterName::parse(&format!("/contract/{}/{name}", self.suffix));
        Publication {
            place: Place::Parameter(name.expect("a name")),
            key: None,
            form: AcceptedForm::Digests,
        }
    }

    pub fn item(&self, name: &str) -> Publication {
        let id = KeyValue::Text(format!("{name}-{}", self.suffix));
        let key = ItemKey::new(vec![("id".to_owned(), id)]).expect("a key");
        Publication {
            place: Place::Item { table: self.items.clone(), key },
            key: None,
            form: AcceptedForm::Digests,
        }
    }
}

/// Passes the names of all guarantees to a macro, which makes a test of each: `records: name, ...;
/// publications: name, ...;`.
#[macro_export]
macro_rules! promises_of_stores {
    ($tests:ident) => {
        $tests! {
            records: saves_only_if_unmoved, saves_once_of_two_at_a_time, reads_back_what_was_saved, knows_nothing_of_what_was_never_saved, saves_a_key_once_and_all_or_nothing, forgets_a_key_in_time, adds_a_key_only_to_the_record_that_was_read, postpones_without_a_new_revision, counts_failed_runs_beside_the_record, lists_what_fails_apart_from_what_is_due, forgets_a_record_and_no_more, tells_what_is_due_in_order, keeps_the_audit, finds_a_value_in_the_audit, opens_what_it_sealed;
            publications: hold_nothing_before_the_first_write, read_back_the_bytes_that_were_written, give_each_version_of_a_parameter_a_number, keep_the_key_of_a_parameter, refuse_a_late_write_where_they_can_fence, take_what_an_older_record_wrote, refuse_what_a_newer_record_wrote, take_the_same_view_again, hold_both_views_in_one_item, refuse_another_tokens_item, move_a_label, have_no_labels_on_items;
        }
    };
}
