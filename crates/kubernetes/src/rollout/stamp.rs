//! The stamp of a pod template.

use std::time::Duration;

use changeover_core::{
    error::{Error, Kind},
    ports::{Progress, Stamp},
    spec::{Side, Workload},
};
use changeover_token::Fence;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ObjectMeta, PartialObjectMeta},
};
use serde_json::json;
use tokio::time::sleep;

use super::{Rolled, read};
use crate::{
    KubernetesClusters, MANAGER,
    call::{Failed, Mode, Target, call, found, spread},
    workload::{ANNOTATIONS, WorkloadObject},
};

/// See [`changeover_core::ports::Workloads::stamp`].
///
/// It reads before it writes, and writes only if nothing changed in between. So a stamp never goes back,
/// even if another invocation stamps at the same time. A later stamp is not ours, so it proves no rollout
/// of ours.
pub(super) async fn stamp<K: Rolled>(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    stamp: &Stamp,
) -> Result<Option<Progress<()>>, Error> {
    let annotation = annotation(stamp);
    for attempt in 1..=STAMP_ATTEMPTS {
        let Some(live) = read::<K>(kubernetes, workload).await? else {
            return Ok(None);
        };
        let live: WorkloadObject = live.into();
        match live.stamped(&annotation) {
            Some(standing) if standing == stamp.fence => return Ok(Some(Progress::Done(()))),
            Some(standing) if standing > stamp.fence => {
                return Ok(Some(Progress::Ahead(standing)));
            }
            _ => {}
        }
        match apply::<K>(kubernetes, workload, live.metadata(), stamp, Mode::Persist).await {
            // The status changes all the time while another rollout of it is in progress.
            Err(Failed { code: 409, .. }) => {
                let pause = Duration::from_millis(50) * attempt;
                // The pauses differ, so that tokens which stamp one workload at once separate.
                sleep(spread(pause, &format!("{workload} {annotation}"))).await;
            }
            applied => {
                return found(applied).map(|applied| applied.map(|_| Progress::Done(())));
            }
        }
    }
    Err(Error::new(
        Kind::Unreachable,
        "stamp the pod template of",
        format!("it changed between reading and writing, {STAMP_ATTEMPTS} times"),
        "see who keeps changing it (kubectl get --show-managed-fields); the next run tries again",
    )
    .on(workload))
}

/// Submits a stamp of this side and token that the workload does not have as a dry run: admission judges
/// it, and nothing changes.
pub(super) async fn dry_run<K: Rolled>(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &WorkloadObject,
    stamp: &Stamp,
) -> Result<(), Failed> {
    let standing = live.stamped(&annotation(stamp)).unwrap_or_default();
    let fence = Fence { revision: standing.revision + 1, ..standing };
    let stamp = &Stamp { fence, ..stamp.clone() };
    apply::<K>(kubernetes, workload, live.metadata(), stamp, Mode::DryRun).await.map(drop)
}

/// Applies a stamp to the workload that was read.
async fn apply<K: Rolled>(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    read: &ObjectMeta,
    stamp: &Stamp,
    mode: Mode,
) -> Result<PartialObjectMeta<K>, Failed> {
    let resource_version = match mode {
        Mode::Persist => read.resource_version.clone(),
        // The status changes all the time, which is irrelevant to admission.
        Mode::DryRun => None,
    };
    // With uid and resourceVersion an apply neither creates a workload that was deleted meanwhile nor
    // overwrites a newer stamp: both are conflicts.
    let metadata = ObjectMeta {
        name: Some(workload.name.clone()),
        namespace: Some(workload.namespace.clone()),
        uid: read.uid.clone(),
        resource_version,
        ..ObjectMeta::default()
    };
    let apply = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": metadata,
        "spec": {"template": {"metadata": {"annotations": {
            annotation(stamp): stamp.fence.to_string(),
        }}}},
    });
    // Forced, because a value of this annotation that was set by hand has no authority.
    let parameters = PatchParams::apply(&manager(stamp)).force();
    let (apply, parameters) =
        (&apply, &PatchParams { dry_run: mode == Mode::DryRun, ..parameters });
    let target = Target::beside(workload, "patch", K::RESOURCE, &workload.name);
    call(&*kubernetes.access, target, |connection| async move {
        let objects: Api<PartialObjectMeta<K>> =
            Api::namespaced(connection.client, &workload.namespace);
        objects.patch(&workload.name, parameters, &Patch::Apply(apply)).await
    })
    .await
}

/// The annotation that carries this stamp, on the pod template or on a Secret that is written.
pub(crate) fn annotation(stamp: &Stamp) -> String {
    format!("{}.{ANNOTATIONS}{}", singular(stamp.side), stamp.token)
}

/// The field manager that owns it. There is one per side and token, because a field that a manager owned
/// and omits from its next apply is removed.
pub(crate) fn manager(stamp: &Stamp) -> String {
    format!("{MANAGER}-{}-{}", singular(stamp.side), stamp.token)
}

fn singular(side: Side) -> &'static str {
    match side {
        Side::Verifiers => "verifier",
        Side::Presenters => "presenter",
    }
}

/// The number of attempts of a stamp if the workload changes at the same time.
const STAMP_ATTEMPTS: u32 = 12;

#[cfg(test)]
mod tests {
    use super::*;
    use changeover_token::TokenName;

    #[test]
    fn annotation_and_manager_name_side_and_token() {
        let stamp = |side| Stamp {
            side,
            token: TokenName::parse("datastore-token").unwrap(),
            fence: Fence::bare(7),
        };
        let verifiers = stamp(Side::Verifiers);
        assert_eq!(annotation(&verifiers), "verifier.changeover.dev/datastore-token");
        assert_eq!(manager(&verifiers), "changeover-verifier-datastore-token");
        let presenters = stamp(Side::Presenters);
        assert_eq!(annotation(&presenters), "presenter.changeover.dev/datastore-token");
        assert_eq!(manager(&presenters), "changeover-presenter-datastore-token");
    }
}
