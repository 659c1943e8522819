//! Parts of the design that a shell can leave out, one at a time.

use std::fmt;

/// A wait, an order or a precaution that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Omission {
    /// Expand waits for the verifiers' Secret.
    VerifiersSync,
    /// Expand waits for the verifiers' pods.
    VerifiersRoll,
    /// Expand waits for verifiers that are not restarted.
    VerifiersCaches,
    /// Migrate waits for the presenters' Secret.
    PresentersSync,
    /// Migrate waits for the presenters' pods.
    PresentersRoll,
    /// Migrate waits for presenters that are not restarted.
    PresentersCaches,
    /// Overlap waits for the verifiers' pods.
    OverlapRoll,
    /// The legs are in order: verifiers first.
    LegsInOrder,
    /// The old version gets its end when migrate is complete.
    EndAfterMigrate,
    /// A step is saved as done when it is done.
    StepSavedWhenDone,
    /// The lag of readers' own caches is counted from the answered write.
    WithinFromAnswer,
    /// Migrate is saved as owed before a presented view is sent.
    SaveBeforeMigrate,
    /// Nothing is dropped once migrate is saved as owed.
    DropOnlyBeforeMigrate,
    /// No session begins while a lease is live.
    Lease,
    /// A call to a store that cannot fence ends before the lease does.
    TimeOfACall,
    /// A save is conditional on the revision.
    ConditionalSave,
    /// A DynamoDB item takes no older view.
    Fence,
    /// The set of versions does not change while a write may still land.
    LateWrites,
    /// A session that takes a lease over remembers the write that the earlier holder may have left behind.
    LateWriteOfOthers,
    /// A session that got no answer to its write remembers it.
    LateWriteOfOneself,
    /// One rotation at a time.
    OneSlot,
    /// A stamp is the revision of the view.
    StampIsRevision,
    /// A view that is published again is a new one.
    RepeatIsNewView,
    /// A roll counts only if what was published is still there.
    LastLook,
    /// Drift detection runs once a late write may have landed.
    Comparison,
}

impl fmt::Display for Omission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Omission::VerifiersSync => "expand does not wait for the verifiers' Secret",
            Omission::VerifiersRoll => "expand does not wait for the verifiers' pods",
            Omission::VerifiersCaches => "expand does not wait for the verifiers' caches",
            Omission::PresentersSync => "migrate does not wait for the presenters' Secret",
            Omission::PresentersRoll => "migrate does not wait for the presenters' pods",
            Omission::PresentersCaches => "migrate does not wait for the presenters' caches",
            Omission::OverlapRoll => "overlap does not wait for the verifiers' pods",
            Omission::LegsInOrder => "the legs are swapped",
            Omission::EndAfterMigrate => "the old version gets its end at expand",
            Omission::StepSavedWhenDone => "a roll is saved as done before it is carried out",
            Omission::WithinFromAnswer => "caches are counted from before the publish",
            Omission::SaveBeforeMigrate => "no save between expand's roll and migrate's publish",
            Omission::DropOnlyBeforeMigrate => "a drop while migrate's publish is owed",
            Omission::Lease => "a live lease is not honoured",
            Omission::TimeOfACall => "a call lasts longer than its lease",
            Omission::ConditionalSave => "a save takes whatever is stored",
            Omission::Fence => "an item takes an older view",
            Omission::LateWrites => "late writes are forgotten",
            Omission::LateWriteOfOthers => "late writes are forgotten by who takes over",
            Omission::LateWriteOfOneself => "late writes are forgotten by who sent them",
            Omission::OneSlot => "a rotation begins while another has the slot",
            Omission::StampIsRevision => "a stamp is the version's number",
            Omission::RepeatIsNewView => "a view is published again under its old revision",
            Omission::LastLook => "a roll counts though what was published was reverted",
            Omission::Comparison => "nobody compares when a late write may have landed",
        })
    }
}
