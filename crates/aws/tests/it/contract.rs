//! The ports' contracts, verified against the emulator.

use crate::emulator::Testbed;

macro_rules! on_the_testbed {
    ($($store:ident: $($promise:ident),*;)*) => {
        $(mod $store {
            $(
                #[tokio::test]
                #[ignore = "needs a testbed: `make test`"]
                async fn $promise() {
                    let testbed = super::Testbed::named().await;
                    changeover_testkit::contract::$store::$promise(&testbed.stores()).await;
                }
            )*
        })*
    };
}
changeover_testkit::promises_of_stores!(on_the_testbed);
