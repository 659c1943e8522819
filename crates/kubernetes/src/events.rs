//! Events: the reasons that controllers report nowhere else.

use changeover_core::spec::Workload;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, api::ListParams};

use crate::{
    KubernetesClusters,
    call::{Target, call},
};

/// Returns the newest event in the namespace of a workload that these fields select. `None` if there is
/// none, or if events cannot be read: the problem that they explain is reported without them too.
pub(super) async fn newest(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    fields: &str,
) -> Option<Event> {
    let target = Target::beside(workload, "list", "events", "");
    let selected = &ListParams::default().fields(fields);
    let listed = call(&*kubernetes.access, target, |connection| async move {
        let events: Api<Event> = Api::namespaced(connection.client, &workload.namespace);
        events.list(selected).await
    });
    listed.await.ok()?.items.into_iter().max_by_key(happened)
}

/// The time at which it happened last.
pub(super) fn happened(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    last.or(series.map(|time| time.0)).or(event.event_time.as_ref().map(|time| time.0))
}
