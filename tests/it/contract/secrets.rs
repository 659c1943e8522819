//! Secrets that are written.

use changeover::{
    spec::{PicksUp, SecretCopy, Side, Workload, WorkloadKind},
    token::{Digest, Secret},
    world::{Clusters, Progress, SecretRevision, Stamp},
};

use crate::{
    sample::{fence, named},
    world::MemoryWorld,
};

#[tokio::test(start_paused = true)]
async fn in_memory_a_key_of_a_secret_keeps_its_newest_view() {
    let world = MemoryWorld::new(0).world();
    let written = |key: &str| Workload {
        cluster: "prod".to_owned(),
        namespace: "backend".to_owned(),
        kind: WorkloadKind::Deployment,
        name: "datastore".to_owned(),
        copy: Some(SecretCopy::Secret { name: "copy".to_owned(), key: key.to_owned() }),
        picks_up: PicksUp::Restart,
        settle: std::time::Duration::ZERO,
    };
    a_key_of_a_secret_keeps_its_newest_view(&*world.clusters, written).await;
}

/// The promise, in any world in which nothing is written for these workloads yet, one for each key.
pub(crate) async fn a_key_of_a_secret_keeps_its_newest_view(
    clusters: &dyn Clusters,
    written: impl Fn(&str) -> Workload,
) {
    let (ours, other) = (written("ours"), written("other"));
    let standing = async || clusters.secret_revision(&ours, &[]).await.expect("an answer");
    let holds = async || clusters.written_secret(&ours).await.expect("an answer");
    let write = async |workload: &Workload, token: &str, revision, value: &str| {
        let stamp = Stamp { side: Side::Verifiers, token: named(token), fence: fence(revision) };
        let value = Secret::verbatim(value.to_owned());
        clusters.write_secret(workload, &stamp, &value).await.expect("an answer")
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

    // Somebody else's key in the same Secret.
    done(write(&other, "b", 1, "one").await);
    assert_eq!((standing().await, holds().await), (second, Some(Digest::of("six"))));
}
