//! Guarantees about Secrets that changeover writes.

use changeover_core::{
    ports::{Progress, SecretCopies, Stamp},
    record::SecretRevision,
    spec::{Side, Workload},
};
use changeover_token::{Digest, Secret};

use crate::sample::{fence, named};

/// Checks the guarantee in any world in which nothing is written yet for these workloads, one for each key.
pub async fn key_of_secret_keeps_newest_view(
    copies: &dyn SecretCopies,
    written: impl Fn(&str) -> Workload,
) {
    let (ours, other) = (written("ours"), written("other"));
    let standing = async || copies.secret_revision(&ours, &[]).await.expect("an answer");
    let holds = async || copies.written_secret(&ours).await.expect("an answer");
    let write = async |workload: &Workload, token: &str, revision, value: &str| {
        let stamp = Stamp { side: Side::Verifiers, token: named(token), fence: fence(revision) };
        let value = Secret::verbatim(value.to_owned());
        copies.write_secret(workload, &stamp, &value).await.expect("an answer")
    };
    let done = |progress: Progress<SecretRevision>| match progress {
        Progress::Done(revision) => Some(revision),
        other => panic!("{other:?}"),
    };
    assert_eq!((standing().await, holds().await), (None, None));
    let first = done(write(&ours, "a", 5, "five").await);
    assert_eq!(standing().await, first);
    assert_eq!(done(write(&ours, "a", 5, "five").await), first);

    let second = done(write(&ours, "a", 6, "six").await);
    assert_ne!(second, first);
    let late = write(&ours, "a", 5, "five").await;
    assert_eq!(late, Progress::Ahead(fence(6)));
    assert_eq!(standing().await, second);

    // Another token's key in the same Secret.
    done(write(&other, "b", 1, "one").await);
    assert_eq!((standing().await, holds().await), (second, Some(Digest::of("six"))));
}
