//! What would keep a workload from ever taking a view up, found before anything is minted.

use k8s_openapi::api::apps::v1::Deployment;

use super::{
    KubernetesClusters, external_secret::obstacles, rollout, sync, workload::deployment::condition,
};
use crate::{
    error::{Error, Kind},
    spec::{ParameterName, PicksUp, SecretCopy, Workload},
    world::{Finding, Severity},
};

/// See [`crate::world::Clusters::inspect`].
pub(super) async fn inspect(
    kubernetes: &KubernetesClusters,
    workload: &Workload,
    parameters: &[ParameterName],
) -> Result<Vec<Finding>, Error> {
    let object = workload.to_string();
    let mut findings = Vec::new();
    match readable(&object, rollout::read(kubernetes, workload).await)? {
        Read::Refused(finding) => findings.push(finding),
        Read::Missing => findings.push(missing(&object)),
        Read::Found(deployment) => findings.extend(of_deployment(&object, workload, &deployment)),
    }
    if let Some(SecretCopy::ExternalSecret { name, secret_key }) = &workload.copy {
        let object = sync::object(workload, name);
        match readable(&object, sync::read(kubernetes, workload).await)? {
            Read::Refused(finding) => findings.push(finding),
            Read::Missing => findings.push(missing(&object)),
            Read::Found(external_secret) => {
                let secret_key = secret_key.as_deref();
                findings.extend(obstacles(&object, &external_secret, secret_key, parameters));
                let status = external_secret.status.unwrap_or_default();
                if let Some(ready) = status.ready().filter(|ready| ready.status == "False") {
                    let why = sync::failure(kubernetes, workload, name, &ready.message).await;
                    findings.push(Finding {
                        severity: Severity::Warning,
                        object,
                        reason: format!("its last sync failed: {why}"),
                        fix: "repair it or its SecretStore: a rotation will wait for its sync"
                            .to_owned(),
                    });
                }
            }
        }
    }
    Ok(findings)
}

fn of_deployment(object: &str, workload: &Workload, deployment: &Deployment) -> Vec<Finding> {
    let spec = deployment.spec.as_ref();
    let finding = |severity, reason: String, fix: &str| Finding {
        severity,
        object: object.to_owned(),
        reason,
        fix: fix.to_owned(),
    };
    let mut findings = Vec::new();
    if workload.picks_up != PicksUp::Restart {
        return findings;
    }
    if spec.and_then(|spec| spec.paused) == Some(true) {
        findings.push(finding(
            Severity::Refusal,
            "it is paused: its pods would never be replaced".to_owned(),
            "kubectl rollout resume it",
        ));
    }
    if spec.and_then(|spec| spec.replicas) == Some(0) {
        findings.push(finding(
            Severity::Warning,
            "it has no replicas: that its pods start on a new view is not proven".to_owned(),
            "nothing, if that is meant: what starts later reads the Secret of then",
        ));
    }
    let failed = condition(deployment, "Progressing").filter(|it| it.status == "False");
    if let Some(failed) = failed {
        let why = failed.message.as_deref().or(failed.reason.as_deref()).unwrap_or_default();
        findings.push(finding(
            Severity::Warning,
            format!("its last rollout failed: {why}"),
            "repair it: a rotation rolls it again, and is held where that fails",
        ));
    }
    findings
}

fn missing(object: &str) -> Finding {
    Finding {
        severity: Severity::Missing,
        object: object.to_owned(),
        reason: "it does not exist".to_owned(),
        fix: "create it, or correct the spec".to_owned(),
    }
}

enum Read<T> {
    Found(T),
    Missing,
    Refused(Finding),
}

/// What may not be read, or cannot be there, stops a rotation like any other finding; what could not
/// be asked for is an error.
fn readable<T>(object: &str, answer: Result<Option<T>, Error>) -> Result<Read<T>, Error> {
    match answer {
        Ok(Some(found)) => Ok(Read::Found(found)),
        Ok(None) => Ok(Read::Missing),
        Err(error)
            if matches!(error.kind, Kind::AccessDenied | Kind::PreflightFailed | Kind::BadSpec) =>
        {
            Ok(Read::Refused(Finding {
                severity: Severity::Refusal,
                object: object.to_owned(),
                reason: error.because,
                fix: error.fix,
            }))
        }
        Err(error) => Err(error),
    }
}
