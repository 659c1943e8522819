//! The reason that a controller cannot make pods. The controllers of StatefulSets and DaemonSets report it
//! in events alone.

use changeover_core::spec::Workload;
use kube::core::ObjectMeta;

use crate::{
    KubernetesClusters, MANAGER,
    events::{self, happened},
};

/// The newest refusal since the workload was stamped, in words. `None` if there is none, or if events
/// cannot be read: the problem that they explain is reported without them too.
pub(super) async fn newest(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &ObjectMeta,
) -> Option<String> {
    let uid = live.uid.as_deref()?;
    let fields = format!("involvedObject.uid={uid},reason=FailedCreate,type=Warning");
    // An event from before the stamp is not about the stamp's pods. The control plane set both times.
    let stamps = live.managed_fields.iter().flatten().filter(|entry| {
        entry.manager.as_deref().is_some_and(|manager| manager.starts_with(MANAGER))
    });
    let stamped = stamps.filter_map(|entry| entry.time.as_ref().map(|time| time.0)).max();
    let newest = events::newest(kubernetes, workload, &fields).await?;
    let is_since = stamped.is_none_or(|stamped| happened(&newest).is_some_and(|it| it >= stamped));
    let message = newest.message.filter(|_| is_since)?;
    Some(message.chars().take(LONGEST_MESSAGE).collect())
}

/// Characters of another component's message that are worth repeating.
const LONGEST_MESSAGE: usize = 400;
