//! Effects of admission policies and webhooks on a rotation's changes. They are found before the rotation
//! and quoted in their own words.

use std::time::Instant;

use super::*;

const ADMISSION: &str = "admissionregistration.k8s.io/v1";

impl Testbed {
    /// Creates a policy that denies, in the namespace, every object that does not satisfy the expression.
    pub(super) fn create_policy(&self, rules: &Value, expression: &str, message: &str) {
        let spec = json!({
            "matchConstraints": {"resourceRules": rules},
            "validations": [{"expression": expression, "message": message}],
        });
        self.create_admission("ValidatingAdmissionPolicy", spec);
        let binding = json!({
            "policyName": self.namespace,
            "validationActions": ["Deny"],
            "matchResources": self.matches(),
        });
        self.create_admission("ValidatingAdmissionPolicyBinding", binding);
    }

    pub(super) fn delete_policy(&self) {
        self.delete_admission(&["validatingadmissionpolicybinding", "validatingadmissionpolicy"]);
    }

    /// Creates an object of the admission API, named like the namespace.
    fn create_admission(&self, kind: &str, spec: Value) {
        let metadata = json!({"name": self.namespace});
        let object =
            json!({"apiVersion": ADMISSION, "kind": kind, "metadata": metadata, "spec": spec});
        self.kubectl(&["create", "--filename=-"], &object.to_string());
    }

    fn delete_admission(&self, kinds: &[&str]) {
        for kind in kinds {
            self.kubectl(&["delete", kind, &self.namespace], "");
        }
    }

    fn matches(&self) -> Value {
        let namespace = json!({"kubernetes.io/metadata.name": self.namespace});
        json!({"namespaceSelector": {"matchLabels": namespace}})
    }

    /// Waits until admission refuses this call of kubectl: a new policy is not in force at once.
    pub(super) fn wait_until_refused(&self, arguments: &[&str], object: &Value) {
        let began = Instant::now();
        let arguments = [arguments, &["--dry-run=server"]].concat();
        while self.try_kubectl(&arguments, &object.to_string()) {
            assert!(began.elapsed() < LONG, "it is never refused");
        }
    }

    /// Refusals for a workload by the inspection that precedes a mint.
    async fn refusals(&self, workload: &Workload) -> Vec<String> {
        let parameters = [self.parameter()];
        let found =
            self.clusters.inspect(&subject(workload, &parameters)).await.expect("an answer");
        let refused = found.into_iter().filter(|it| it.severity == Severity::Refusal);
        refused.map(|it| format!("{}: {}; {}", it.object, it.reason, it.fix)).collect()
    }
}

fn assert_one(refused: &[String], words: &[&str]) {
    assert_eq!(refused.len(), 1, "{refused:?}");
    for words in words {
        assert!(refused[0].contains(words), "{words}: {refused:?}");
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn violated_admission_policy_is_found_before_rotation() {
    let testbed = Testbed::with_namespace("limits").await;
    let strategy = json!({"rollingUpdate": {"maxUnavailable": 1}});
    for (kind, name, field) in [
        ("Deployment", "backend", "strategy"),
        ("StatefulSet", "database", ""),
        ("DaemonSet", "agent", "updateStrategy"),
    ] {
        let spec = if field.is_empty() { json!({}) } else { json!({field: strategy}) };
        testbed.deploy_as(kind, name, "sleep 3600", spec);
    }
    let workloads = [
        testbed.workload("backend"),
        testbed.workload_of(WorkloadKind::StatefulSet, "database"),
        testbed.workload_of(WorkloadKind::DaemonSet, "agent"),
    ];
    for workload in &workloads {
        assert_eq!(testbed.refusals(workload).await, [""; 0]);
    }
    let rules = json!([{
        "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
        "resources": ["deployments", "statefulsets", "daemonsets"],
    }]);
    let limits =
        "object.spec.template.spec.containers.all(c, has(c.resources) && has(c.resources.limits))";
    testbed.create_policy(&rules, limits, "every container has limits");
    let namespace = format!("--namespace={}", testbed.namespace);
    let touched = ["annotate", "deployment", "backend", &namespace, "note=1"];
    testbed.wait_until_refused(&touched, &json!(null));
    for workload in &workloads {
        let object = workload.to_string();
        let words = [
            object.as_str(),
            "every container has limits",
            "exempt the function's Kubernetes group",
        ];
        assert_one(&testbed.refusals(workload).await, &words);
    }
    assert_eq!(testbed.stamps("backend", PRESENTED).values().flatten().count(), 0);
    testbed.delete_policy();
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn change_by_mutating_policy_is_found_before_rotation() {
    let testbed = Testbed::with_namespace("mutates").await;
    testbed.deploy("backend", "sleep 3600", json!({}));
    let workload = testbed.workload("backend");
    // Injecting agents work like this: their operators change the pod template on each update.
    let added = "Object{spec: Object.spec{template: Object.spec.template{metadata: \
                 Object.spec.template.metadata{annotations: {'x.example.com/auto': 'true'}}}}}";
    testbed.create_admission("MutatingAdmissionPolicy", json!({
        "matchConstraints": {"resourceRules": [{
            "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["deployments"],
        }]},
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": added}}],
    }));
    let binding = json!({"policyName": testbed.namespace, "matchResources": testbed.matches()});
    testbed.create_admission("MutatingAdmissionPolicyBinding", binding);
    let began = Instant::now();
    let refused = loop {
        let refused = testbed.refusals(&workload).await;
        if !refused.is_empty() {
            break refused;
        }
        assert!(began.elapsed() < LONG, "the policy never comes into force");
    };
    let words = ["a mutating webhook or policy adds a change of its own", "with another identity"];
    assert_one(&refused, &words);

    // Follow the fix that the refusal names.
    testbed.in_namespace(&["annotate", "deployment", "backend", "note=1"]);
    assert_eq!(testbed.refusals(&workload).await, [""; 0]);
    testbed.delete_admission(&["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"]);
    testbed.tidied();
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn unreachable_webhook_is_found_before_rotation() {
    let testbed = Testbed::with_namespace("dead").await;
    let parameter = testbed.parameter();
    testbed.put_parameter(&parameter, "one").await;
    testbed.create_external_secret(&json!({}));
    let workload = testbed.copied(None);
    testbed.deploy("backend", "sleep 3600", json!({}));
    let copied = "prod/externalsecret"
        .replace("prod", &format!("{}/{}", workload.cluster, workload.namespace));
    let before = testbed.refusals(&workload).await;
    assert!(before.iter().all(|it| !it.contains(&copied)), "{before:?}");

    let metadata = json!({"name": testbed.namespace});
    testbed.kubectl(&["create", "--filename=-"], &json!({
        "apiVersion": ADMISSION,
        "kind": "ValidatingWebhookConfiguration",
        "metadata": metadata,
        "webhooks": [{
            "name": "validate.external-secret.io",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": 1,
            // No process listens on this address.
            "clientConfig": {"url": "https://127.0.0.1:1/validate"},
            "namespaceSelector": testbed.matches()["namespaceSelector"],
            "rules": [{
                "apiGroups": ["external-secrets.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": ["externalsecrets"],
            }],
        }],
    }).to_string());
    let began = Instant::now();
    let refused = loop {
        let mut refused = testbed.refusals(&workload).await;
        refused.retain(|it| it.contains(&copied));
        if !refused.is_empty() {
            break refused;
        }
        assert!(began.elapsed() < LONG, "the webhook never comes into force");
    };
    assert_one(
        &refused,
        &["validate.external-secret.io", "connection refused", "mend that webhook"],
    );
    assert!(!refused[0].contains("without"), "{refused:?}");
    testbed.delete_admission(&["validatingwebhookconfiguration"]);
    testbed.tidied();
}
