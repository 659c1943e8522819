//! Parsing of the configuration from any environment.

use changeover::config::{self, Config};
use proptest::{collection::vec, prelude::*};

proptest! {
    #[test]
    fn any_environment_is_accepted_or_names_faults(
        values in vec(".{0,12}|[ -~]{0,30}", config::variables().len()),
    ) {
        let variables = config::variables();
        let read = Config::from(|name| {
            variables.iter().position(|variable| *variable == name).map(|at| values[at].clone())
        });
        if let Err(faults) = read {
            prop_assert!(!faults.0.is_empty());
            prop_assert!(faults.0.iter().all(|fault| variables.contains(&fault.variable)));
        }
    }
}
