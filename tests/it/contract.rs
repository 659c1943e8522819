//! What the ports promise, held against the world in memory, and by `make test` against the emulator
//! of AWS: that is what makes the world in memory trustworthy.

mod emulator;
mod publications;
mod records;
pub(crate) mod secrets;

use std::sync::Arc;

use changeover::{
    spec::{ItemKey, KeyValue, ParameterName, Place, Publication},
    token::{AcceptedForm, TokenName},
    world::{Clock, Publications, RecordStore},
};

use crate::{sample::named, world::MemoryWorld};

/// The stores of one world.
pub(crate) struct Stores {
    records: Arc<dyn RecordStore>,
    publications: Arc<dyn Publications>,
    clock: Clock,
    /// A table of items whose key is the text `id`.
    items: String,
    /// Nobody else's names end so.
    suffix: String,
}

impl Stores {
    fn in_memory() -> Self {
        let world = MemoryWorld::new(0).world();
        Self {
            records: world.records,
            publications: world.publications,
            clock: world.clock,
            items: "items".to_owned(),
            suffix: "in-memory".to_owned(),
        }
    }

    fn token(&self, name: &str) -> TokenName {
        named(&format!("{name}-{}", self.suffix))
    }

    fn parameter(&self, name: &str) -> Publication {
        let name = ParameterName::parse(&format!("/contract/{}/{name}", self.suffix));
        Publication {
            place: Place::Parameter(name.expect("a name")),
            key: None,
            form: AcceptedForm::Digests,
        }
    }

    fn item(&self, name: &str) -> Publication {
        let id = KeyValue::Text(format!("{name}-{}", self.suffix));
        let key = ItemKey::new(vec![("id".to_owned(), id)]).expect("a key");
        Publication {
            place: Place::Item { table: self.items.clone(), key },
            key: None,
            form: AcceptedForm::Digests,
        }
    }
}

/// Makes a test of each promise for each world.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod in_memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $promise() {
                    super::$promise(&crate::contract::Stores::in_memory()).await;
                }
            )*
        }

        mod on_the_testbed {
            $(
                #[tokio::test]
                #[ignore = "needs a testbed: `make test`"]
                async fn $promise() {
                    let testbed = crate::contract::emulator::Testbed::named().await;
                    super::$promise(&testbed.stores()).await;
                }
            )*
        }
    };
}
pub(crate) use promises;
