//! The cost of each omission.

use std::fmt::Write as _;

use super::{
    Broken, FENCED, Protocol, UNFENCED,
    omission::Omission::{self, *},
    promises::{AUTHENTICATES, COMPLETES, ENDS, MOVES, ONE_PENDING},
};

/// A shell that leaves something out.
pub(super) struct Variant {
    omits: Omission,
    fenced: [bool; 2],
    /// The promise that it breaks, or `None` if these stores do not need what is left out.
    breaks: Option<&'static str>,
}

const fn parameters(omits: Omission, breaks: &'static str) -> Variant {
    Variant { omits, fenced: UNFENCED, breaks: Some(breaks) }
}

const fn items(omits: Omission, breaks: Option<&'static str>) -> Variant {
    Variant { omits, fenced: FENCED, breaks }
}

/// The omissions on parameters and, if the result differs, on items.
pub(super) const VARIANTS: [Variant; 44] = [
    parameters(VerifiersSync, AUTHENTICATES),
    parameters(VerifiersRoll, AUTHENTICATES),
    parameters(VerifiersCaches, AUTHENTICATES),
    parameters(PresentersSync, AUTHENTICATES),
    parameters(PresentersRoll, AUTHENTICATES),
    parameters(PresentersCaches, AUTHENTICATES),
    parameters(OverlapRoll, ENDS),
    parameters(LegsInOrder, AUTHENTICATES),
    parameters(EndAfterMigrate, AUTHENTICATES),
    parameters(StepSavedWhenDone, AUTHENTICATES),
    parameters(WithinFromAnswer, AUTHENTICATES),
    parameters(SaveBeforeMigrate, AUTHENTICATES),
    parameters(DropOnlyBeforeMigrate, AUTHENTICATES),
    parameters(Lease, AUTHENTICATES),
    parameters(TimeOfACall, AUTHENTICATES),
    parameters(LateWrites, AUTHENTICATES),
    parameters(LateWriteOfOthers, AUTHENTICATES),
    parameters(LateWriteOfOneself, AUTHENTICATES),
    parameters(OneSlot, ONE_PENDING),
    parameters(StampIsRevision, ENDS),
    parameters(RepeatIsNewView, MOVES),
    parameters(LastLook, AUTHENTICATES),
    parameters(Comparison, COMPLETES),
    items(VerifiersRoll, Some(AUTHENTICATES)),
    items(VerifiersCaches, Some(AUTHENTICATES)),
    items(PresentersRoll, Some(AUTHENTICATES)),
    items(PresentersCaches, Some(AUTHENTICATES)),
    items(OverlapRoll, Some(ENDS)),
    items(LegsInOrder, Some(AUTHENTICATES)),
    items(EndAfterMigrate, Some(AUTHENTICATES)),
    items(StepSavedWhenDone, Some(AUTHENTICATES)),
    items(WithinFromAnswer, Some(AUTHENTICATES)),
    items(SaveBeforeMigrate, Some(AUTHENTICATES)),
    items(DropOnlyBeforeMigrate, Some(AUTHENTICATES)),
    items(Lease, None),
    items(TimeOfACall, None),
    items(LateWrites, None),
    items(Comparison, None),
    items(ConditionalSave, Some(AUTHENTICATES)),
    items(Fence, Some(AUTHENTICATES)),
    items(OneSlot, Some(ONE_PENDING)),
    items(StampIsRevision, Some(ENDS)),
    items(RepeatIsNewView, Some(MOVES)),
    items(LastLook, Some(AUTHENTICATES)),
];

/// The result of one variant.
pub(super) struct Row {
    variant: &'static Variant,
    states: usize,
    broken: Option<Broken>,
}

impl Variant {
    pub(super) fn check(&'static self) -> Row {
        let protocol = Protocol {
            omits: Some(self.omits),
            // One rotation is enough to leave something behind, and all of its states must be explored.
            versions: if self.omits == Comparison { 2 } else { 3 },
            reverts: u8::from(matches!(self.omits, LastLook | RepeatIsNewView)),
            judges: match &self.breaks {
                Some(promise) => std::slice::from_ref(promise),
                None => &super::EVERY_PROMISE,
            },
            ..Protocol::of(self.fenced)
        };
        let (states, broken) = protocol.check();
        Row { variant: self, states, broken }
    }
}

impl Row {
    /// True if exactly the promise is broken that this omission is known to break, or none if it breaks
    /// none.
    pub(super) fn is_as_expected(&self) -> bool {
        self.broken.as_ref().map(|broken| broken.promise) == self.variant.breaks
    }
}

/// The table, followed by the actions that lead to each broken promise.
pub(super) fn in_words<'a>(rows: impl IntoIterator<Item = &'a Row> + Clone) -> String {
    let mut words = format!("{:58} {:>10} {:>8}  result\n", "left out", "stores", "states");
    for row in rows.clone() {
        let stores = if row.variant.fenced == FENCED { "items" } else { "parameters" };
        let result = match &row.broken {
            Some(broken) => format!("{}, {}", broken.promise, broken.trace.len()),
            None => "no promise is broken".to_owned(),
        };
        let left_out = row.variant.omits.to_string();
        writeln!(words, "{left_out:58} {stores:>10} {:>8}  {result}", row.states).unwrap();
    }
    for row in rows {
        if let Some(broken) = &row.broken {
            writeln!(words, "\n{}:\n{broken}", row.variant.omits).unwrap();
        }
    }
    words
}
