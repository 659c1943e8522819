//! Why a controller cannot make pods: a StatefulSet's and a DaemonSet's tell it in events alone.

use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams, core::ObjectMeta};

use super::super::{
    KubernetesClusters,
    call::{Target, call},
};
use crate::spec::Workload;

/// The newest refusal since `stamped`, in words; `None` where there is none, or events cannot be
/// read: what they explain is told without them too.
pub(super) async fn newest(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    live: &ObjectMeta,
) -> Option<String> {
    let target = Target::beside(workload, "list", "events", "");
    let uid = live.uid.as_deref()?;
    let selected = &ListParams::default()
        .fields(&format!("involvedObject.uid={uid},reason=FailedCreate,type=Warning"));
    let listed = call(&*kubernetes.access, target, |connection| async move {
        let events: Api<Event> = Api::namespaced(connection.client, &workload.namespace);
        events.list(selected).await
    });
    let happened = |event: &Event| {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(series.map(|time| time.0)).or(event.event_time.as_ref().map(|time| time.0))
    };
    // One from before the stamp says nothing of its pods; the control plane set both times.
    let stamps = live.managed_fields.iter().flatten().filter(|entry| {
        entry.manager.as_deref().is_some_and(|manager| manager.starts_with(super::super::MANAGER))
    });
    let stamped = stamps.filter_map(|entry| entry.time.as_ref().map(|time| time.0)).max();
    let newest = listed.await.ok()?.items.into_iter().max_by_key(happened)?;
    let is_since = stamped.is_none_or(|stamped| happened(&newest).is_some_and(|it| it >= stamped));
    let message = newest.message.filter(|_| is_since)?;
    Some(message.chars().take(LONGEST_MESSAGE).collect())
}

/// Characters of somebody else's message that are worth repeating.
const LONGEST_MESSAGE: usize = 400;
