//! The ports' contracts, verified against the world in memory. The testbed verifies them against the
//! adapters, which is why results from the world in memory can be trusted.

use changeover_core::spec::{PicksUp, SecretCopy, Workload, WorkloadKind};
use changeover_testkit::{
    contract::{Stores, secrets::key_of_secret_keeps_newest_view},
    promises_of_stores,
    world::MemoryWorld,
};

macro_rules! in_memory {
    ($($store:ident: $($promise:ident),*;)*) => {
        $(mod $store {
            $(
                #[tokio::test(start_paused = true)]
                async fn $promise() {
                    changeover_testkit::contract::$store::$promise(&super::Stores::in_memory()).await;
                }
            )*
        })*
    };
}
promises_of_stores!(in_memory);

#[tokio::test(start_paused = true)]
async fn in_memory_secret_key_keeps_its_newest_view() {
    let world = MemoryWorld::new(0).ports();
    let written = |key: &str| Workload {
        cluster: "prod".to_owned(),
        namespace: "backend".to_owned(),
        kind: WorkloadKind::Deployment,
        name: "datastore".to_owned(),
        copy: Some(SecretCopy::Secret { name: "copy".to_owned(), key: key.to_owned() }),
        picks_up: PicksUp::Restart,
        settle: std::time::Duration::ZERO,
    };
    key_of_secret_keeps_newest_view(&*world.copies, written).await;
}
