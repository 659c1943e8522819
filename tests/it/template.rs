//! The template against the code: variables that are set are read, operations that are called are granted,
//! and nothing else is granted.

mod schedules;
mod watched;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use changeover::config::{self, Config};
use changeover_core::{event::STATUS_ALIAS, spec::WRITTEN_ATTRIBUTES};

use crate::sources;
use changeover_testkit::schema::strings;
use serde_json::{Value, json};

const TEMPLATE: &str = include_str!("../../template.yaml");
const CLUSTER_RIGHTS: &str = include_str!("../../infra/eks-rbac.yaml");
const CLUSTER_POLICY: &str = include_str!("../../infra/eks-policy.yaml");
pub(crate) const TOKEN: &str = include_str!("../../infra/token.yaml");
const ACCESS: &str = include_str!("../../infra/eks-access.yaml");
const PIPELINE: &str = include_str!("../../infra/pipeline.yaml");
const THREAT_MODEL: &str = include_str!("../../infra/threat-model.md");
const WORKFLOW: &str = include_str!("../../.github/workflows/ci.yml");

#[test]
fn template_variable_is_read_by_function() {
    let mut read = BTreeSet::from(config::variables());
    // Lambda sets this variable itself, and refuses a function that sets it too.
    assert!(read.remove(config::FUNCTION_NAME));
    for variable in environment().keys() {
        let is_known = read.contains(variable.as_str()) || variable == "AWS_ENDPOINT_URL";
        assert!(is_known, "nothing reads {variable}");
    }
}

#[test]
fn template_defaults_equal_function_defaults() {
    let mut set = environment();
    set.insert(config::FUNCTION_NAME.to_owned(), "changeover-rotator".to_owned());
    let deployed = Config::from(|variable| set.get(variable).cloned());

    let required = [config::FUNCTION_NAME, config::TABLE, config::KEY, config::PUBLICATION_KEY];
    let only_required = |variable: &str| set.get(variable).filter(|_| required.contains(&variable));
    assert_eq!(deployed, Config::from(|variable| only_required(variable).cloned()));
    assert!(deployed.is_ok(), "{deployed:?}");
}

#[test]
fn granted_actions_equal_adapter_calls() {
    let granted: BTreeSet<String> = statements("RotatorPolicy", "PolicyDocument")
        .into_iter()
        .chain(seals())
        // AWS services make these calls on behalf of the function, not the function itself.
        .filter(|statement| statement["Condition"]["StringEquals"].get("kms:ViaService").is_none())
        .filter(|statement| !done_by_lambda(statement))
        .flat_map(|statement| strings(&statement["Action"]))
        .collect();
    assert_eq!(granted, operations());
}

#[test]
fn put_events_is_granted_only_for_configured_bus() {
    let policy = resource("RotatorPolicy")["Properties"]["PolicyDocument"]["Statement"].take();
    let conditional = policy.as_array().unwrap().iter().filter(|it| it[0] == "HasEventBus");
    let [telling] = conditional.collect::<Vec<_>>()[..] else { panic!("one statement: {policy}") };
    assert_eq!(telling[1]["Action"], "events:PutEvents");
    let bus = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/${EventBus}";
    assert_eq!(telling[1]["Resource"], bus);
    assert_eq!(telling[2], "AWS::NoValue");
    let variables = &resource("Rotator")["Properties"]["Environment"]["Variables"];
    assert_eq!(variables[config::EVENT_BUS], "EventBus");
    assert_eq!(template()["Parameters"]["EventBus"]["Default"], "");
}

#[test]
fn policy_statement_covers_one_service_and_has_sid() {
    for statement in statements("RotatorPolicy", "PolicyDocument") {
        let services: BTreeSet<_> = strings(&statement["Action"])
            .into_iter()
            .map(|action| action.split(':').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(services.len(), 1, "{statement}");
        assert!(statement["Sid"].is_string(), "{statement}");
    }
}

#[test]
fn wildcard_resource_is_explained_by_comment() {
    let mut wildcards = 0;
    for template in [TEMPLATE, TOKEN, PIPELINE] {
        let lines: Vec<_> = template.lines().map(str::trim).collect();
        for at in (0..lines.len()).filter(|&at| lines[at].ends_with(r#"Resource: "*""#)) {
            assert!(lines[at - 1].starts_with('#'), "line {} gives no reason", at + 1);
            wildcards += 1;
        }
    }
    assert!(wildcards > 0);
}

#[test]
fn only_lambda_manages_vpc_interfaces() {
    let policy = statements("RotatorPolicy", "PolicyDocument");
    let [may, may_not] = ["AttachToTheVpc", "LeaveTheVpcToLambda"]
        .map(|sid| policy.iter().find(|statement| statement["Sid"] == sid).unwrap());
    assert_eq!(may["Action"], may_not["Action"]);
    assert_eq!((&may["Effect"], &may_not["Effect"]), (&json!("Allow"), &json!("Deny")));
    let itself = "arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${AWS::StackName}-rotator";
    assert_eq!(may_not["Condition"], json!({"ArnEquals": {"lambda:SourceFunctionArn": itself}}));
    assert!(itself.ends_with(resource("Rotator")["Properties"]["FunctionName"].as_str().unwrap()));
}

#[test]
fn shared_table_access_is_limited_to_written_attributes() {
    let policy = statements("RotatorPolicy", "PolicyDocument");
    // A read lists its attributes, and a write returns none.
    for (sid, action, answered) in [
        (
            "ReadPublishedItems",
            "dynamodb:GetItem",
            json!({"dynamodb:Select": "SPECIFIC_ATTRIBUTES"}),
        ),
        ("PublishToTables", "dynamodb:UpdateItem", json!({"dynamodb:ReturnValues": "NONE"})),
    ] {
        let published = policy.iter().find(|statement| statement["Sid"] == sid).unwrap();
        assert_eq!(published["Action"], action);
        let condition = &published["Condition"];
        assert_eq!(condition["StringEqualsIfExists"], answered);
        // `!If`: the second element is the value if the condition holds.
        assert_eq!(
            condition["ForAllValues:StringLike"][1],
            json!({"dynamodb:LeadingKeys": "PublishedItems"})
        );
        // `!Split [",", !Join [",", [...]]]`, whose last element joins the keys' names.
        let attributes = &condition["ForAllValues:StringEquals"][1]["dynamodb:Attributes"][1][1];
        let mut attributes = attributes.as_array().unwrap().clone();
        assert_eq!(attributes.pop(), Some(json!([",", "PublishedKeyAttributes"])));
        let attributes: BTreeSet<_> = attributes.iter().filter_map(Value::as_str).collect();
        assert_eq!(attributes, BTreeSet::from(WRITTEN_ATTRIBUTES));
    }
}

#[test]
fn only_one_policy_writes_specs_and_clusters() {
    let template = template();
    let policies = template["Resources"].as_object().unwrap().iter();
    let writers: Vec<_> = policies
        .filter(|(_, it)| {
            it["Type"] == "AWS::IAM::Policy" || it["Type"] == "AWS::IAM::ManagedPolicy"
        })
        .flat_map(|(name, _)| {
            statements(name, "PolicyDocument").into_iter().map(move |it| (name, it))
        })
        .filter(|(_, statement)| {
            strings(&statement["Action"]).iter().any(|it| it == "ssm:PutParameter")
        })
        .filter(|(_, statement)| {
            let written = strings(&statement["Resource"]);
            written
                .iter()
                .any(|it| it.contains("${Specs}") || it.contains("${Clusters}") || it == "*")
        })
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(writers, ["WriteSpecs"]);
}

#[test]
fn observers_invoke_only_status_alias() {
    assert_eq!(resource("StatusAlias")["Properties"]["Name"], STATUS_ALIAS);
    let invoked: Vec<_> = statements("Observe", "PolicyDocument")
        .into_iter()
        .filter(|statement| statement["Action"] == "lambda:InvokeFunction")
        .map(|mut statement| statement["Resource"].take())
        .collect();
    assert_eq!(invoked, ["StatusAlias"]);
}

#[test]
fn new_version_shifts_traffic_with_alarm_rollback() {
    let function = &resource("Rotator")["Properties"];
    assert_eq!(function["AutoPublishAlias"], "live");
    assert_eq!(function["AutoPublishAliasAllProperties"], true);
    let preference = &function["DeploymentPreference"];
    assert_eq!(preference["Enabled"], "AutomaticRollback");
    assert_eq!(preference["Type"], "DeploymentType");
    assert_eq!(template()["Parameters"]["AutomaticRollback"]["Default"], "true");
    let invoked_as = ["live", "sweep"].map(|alias| format!("${{Rotator}}:{alias}"));
    let watched = strings(&preference["Alarms"]).into_iter().map(|alarm| {
        let alarm = &resource(&alarm)["Properties"];
        assert_eq!((&alarm["MetricName"], &alarm["Threshold"]), (&json!("Errors"), &json!(1)));
        let resource =
            alarm["Dimensions"].as_array().unwrap().iter().find(|it| it["Name"] == "Resource");
        resource.unwrap()["Value"].as_str().unwrap().to_owned()
    });
    assert_eq!(watched.collect::<Vec<_>>(), invoked_as);
    for alias in ["SweepAlias", "StatusAlias"] {
        let version = &resource(alias)["Properties"]["FunctionVersion"];
        assert_eq!(version, "Rotator.Version.Version", "{alias} bypasses what was published");
    }
}

#[test]
fn rotation_triggers_invoke_live_alias() {
    for rule in ["Inbox", "RotationRule"] {
        assert_eq!(resource(rule)["Properties"]["Targets"][0]["Arn"], "Rotator.Alias", "{rule}");
    }
    let schedule = &resource("RotationSchedule")["Properties"]["Target"]["Arn"];
    assert_eq!(schedule, "Rotator.Alias");
    assert_eq!(template()["Outputs"]["AliasArn"]["Value"], "Rotator.Alias");
    let pipeline: Value = serde_saphyr::from_str(PIPELINE).unwrap();
    let invoked = pipeline["Parameters"]["Function"]["Default"].as_str().unwrap();
    assert!(invoked.ends_with(":live"), "{invoked}");
    let token: Value = serde_saphyr::from_str(TOKEN).unwrap();
    let target = token["Resources"]["Schedule"]["Properties"]["Target"]["Arn"].as_str().unwrap();
    assert!(target.ends_with(":function:${Function}:live"), "{target}");
}

/// The schedule's ARN in the example event.
const SCHEDULE: &str = "arn:aws:scheduler:eu-west-1:123456789012:schedule/default/changeover-RotationSchedule-1A2B3C4D";

#[test]
fn token_schedule_sends_example_event() {
    let token: Value = serde_saphyr::from_str(TOKEN).unwrap();
    let input = token["Resources"]["Schedule"]["Properties"]["Target"]["Input"].as_str().unwrap();
    let sent = input
        .replace("${Token}", "datastore-token")
        .replace("<aws.scheduler.schedule-arn>", SCHEDULE)
        .replace("<aws.scheduler.scheduled-time>", "2026-12-01T04:00:00Z");
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent, example(include_str!("../../events/scheduler.json")));
}

#[test]
fn inbox_arrival_triggers_import_event() {
    let inbox = &resource("Inbox")["Properties"];
    assert_eq!(
        inbox["EventPattern"],
        json!({
            "source": ["aws.ssm"],
            "detail-type": ["Parameter Store Change"],
            "detail": {"name": [{"prefix": "${InboxPath}/"}], "operation": ["Create", "Update"]},
        })
    );
    let transformer = &inbox["Targets"][0]["InputTransformer"];
    assert_eq!(transformer["InputPathsMap"], json!({"parameter": "$.detail.name"}));
    let sent: Value = serde_json::from_str(transformer["InputTemplate"].as_str().unwrap()).unwrap();
    assert_eq!(sent["parameter"], "<parameter>");
    let example = example(include_str!("../../events/import.json"));
    assert_eq!(sent["action"], example["action"]);
    assert_eq!(sent.as_object().unwrap().len(), example.as_object().unwrap().len());
    let arrived =
        "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${InboxPath}/*";
    let policy = statements("RotatorPolicy", "PolicyDocument");
    let decrypts = ["DecryptTheInbox", "DecryptTheInboxUnderOtherKeys"];
    for sid in decrypts {
        let decrypts = policy.iter().find(|statement| statement["Sid"] == sid).unwrap();
        assert_eq!(decrypts["Action"], "kms:Decrypt");
        assert_eq!(
            decrypts["Condition"],
            json!({
                "StringEquals": {"kms:ViaService": "ssm.${AWS::Region}.amazonaws.com"},
                "StringLike": {"kms:EncryptionContext:PARAMETER_ARN": arrived},
            })
        );
    }
}

#[test]
fn threat_model_names_each_granted_statement() {
    let template = template();
    let policies = template["Resources"].as_object().unwrap().iter().filter(|(_, it)| {
        it["Type"] == "AWS::IAM::Policy" || it["Type"] == "AWS::IAM::ManagedPolicy"
    });
    let granted = policies.flat_map(|(name, _)| statements(name, "PolicyDocument")).chain(seals());
    for statement in granted {
        let sid = statement["Sid"].as_str().unwrap();
        assert!(THREAT_MODEL.contains(&format!("`{sid}`")), "infra/threat-model.md omits {sid}");
    }
}

#[test]
fn administrators_cannot_use_sealing_key() {
    let administers = statements("SealingKey", "KeyPolicy")
        .into_iter()
        .filter(|statement| statement["Principal"]["AWS"] != "RotatorRole.Arn");
    let uses_of_the_key =
        ["Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey", "CreateGrant"];
    for action in administers.flat_map(|statement| strings(&statement["Action"])) {
        let action = action.strip_prefix("kms:").expect("an action of KMS").to_owned();
        for use_of_the_key in uses_of_the_key {
            let grants = match action.strip_suffix('*') {
                Some(beginning) => use_of_the_key.starts_with(beginning),
                None => use_of_the_key == action,
            };
            assert!(!grants, "kms:{action} lets administrators {use_of_the_key}");
        }
    }
}

#[test]
fn function_uses_sealing_key_only_within_scope() {
    let seals = seals();
    let [seals] = seals.as_slice() else { panic!("one statement lets the function use the key") };
    assert_eq!(seals["Action"], json!(["kms:Encrypt", "kms:Decrypt"]));
    let under_the_scope =
        json!({"StringEquals": {"kms:EncryptionContext:changeover:scope": "Scope"}});
    assert_eq!(seals["Condition"], under_the_scope);
    // A key policy that names the role needs no second grant in the role's own policy.
    for statement in statements("RotatorPolicy", "PolicyDocument") {
        assert_ne!(statement["Resource"], "SealingKey.Arn");
    }
}

#[test]
fn cluster_token_decryption_has_service_and_path_limits() {
    let decrypts = statements("RotatorPolicy", "PolicyDocument");
    let decrypts = decrypts.iter().find(|it| it["Sid"] == "ReadTokensOfClusters").unwrap();
    assert_eq!(decrypts["Action"], "kms:Decrypt");
    assert_eq!(decrypts["Resource"], "PublicationKey.Arn");
    assert_eq!(
        decrypts["Condition"],
        json!({
            "StringEquals": {"kms:ViaService": "ssm.${AWS::Region}.amazonaws.com"},
            "StringLike": {"kms:EncryptionContext:PARAMETER_ARN":
                "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter${Clusters}/*"},
        })
    );
}

#[test]
fn function_invokes_only_itself() {
    let invokes = statements("RotatorPolicy", "PolicyDocument");
    let invokes = invokes.iter().find(|it| it["Sid"] == "HandOnSweeps").unwrap();
    let name = resource("Rotator")["Properties"]["FunctionName"].as_str().unwrap().to_owned();
    let function = format!(
        "arn:${{AWS::Partition}}:lambda:${{AWS::Region}}:${{AWS::AccountId}}:function:{name}"
    );
    assert_eq!(invokes["Resource"], json!([function, format!("{function}:*")]));
}

#[test]
fn records_outlive_stack_and_are_restorable() {
    let table = resource("Table");
    assert_eq!(table["DeletionPolicy"], "Retain");
    assert_eq!(table["UpdateReplacePolicy"], "Retain");
    let properties = &table["Properties"];
    assert_eq!(properties["DeletionProtectionEnabled"], true);
    assert_eq!(properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true);
    for key in ["SealingKey", "PublicationKey"] {
        assert_eq!(resource(key)["DeletionPolicy"], "Retain");
        assert_eq!(resource(key)["Properties"]["EnableKeyRotation"], true);
    }
}

#[test]
fn table_definition_matches_contract() {
    let table = &resource("Table")["Properties"];
    assert_eq!(
        table["KeySchema"],
        json!([
            {"AttributeName": "pk", "KeyType": "HASH"},
            {"AttributeName": "sk", "KeyType": "RANGE"},
        ])
    );
    assert_eq!(
        table["GlobalSecondaryIndexes"],
        json!([{
            "IndexName": "owed",
            "KeySchema": [
                {"AttributeName": "owed", "KeyType": "HASH"},
                {"AttributeName": "due_at", "KeyType": "RANGE"},
            ],
            "Projection": {"ProjectionType": "KEYS_ONLY"},
        }])
    );
    let expiry = json!({"AttributeName": "expires_at", "Enabled": true});
    assert_eq!(table["TimeToLiveSpecification"], expiry);
    let encryption =
        json!({"SSEEnabled": true, "SSEType": "KMS", "KMSMasterKeyId": "PublicationKey.Arn"});
    assert_eq!(table["SSESpecification"], encryption);
}

#[test]
fn log_is_kept_for_ninety_days() {
    assert_eq!(resource("Logs")["Properties"]["RetentionInDays"], 90);
    assert_eq!(resource("Rotator")["Properties"]["LoggingConfig"]["LogGroup"], "Logs");
}

#[test]
fn function_timeout_is_lambda_maximum() {
    // https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    let longest = Duration::from_secs(15 * 60).as_secs();
    assert_eq!(resource("Rotator")["Properties"]["Timeout"], longest);
}

#[test]
fn parameters_and_outputs_are_described() {
    let template = template();
    for section in ["Parameters", "Outputs"] {
        for (name, entry) in template[section].as_object().unwrap() {
            assert!(entry["Description"].is_string(), "{name} has no description");
        }
    }
}

#[test]
fn cluster_rights_are_limited_to_namespace_or_name() {
    for role in documents_of_kind(CLUSTER_RIGHTS, "Role") {
        assert!(role["metadata"]["labels"]["changeover.dev/feature"].is_string(), "{role}");
    }
    assert_eq!(documents_of_kind(CLUSTER_RIGHTS, "ClusterRole"), Vec::<Value>::new());
    for rule in rules(CLUSTER_POLICY, "ClusterRole") {
        assert!(!strings(&rule["resourceNames"]).is_empty(), "{rule}");
    }
    let everywhere = rules(CLUSTER_POLICY, "ClusterRole");
    for rule in rules(CLUSTER_RIGHTS, "Role").iter().chain(&everywhere) {
        for covered in ["apiGroups", "resources", "verbs"] {
            let covered = strings(&rule[covered]);
            assert!(!covered.is_empty(), "{rule}");
            assert!(covered.iter().all(|one| !one.contains('*')), "{rule}");
        }
        let changes_anything = ["update", "delete", "deletecollection", "escalate", "bind"];
        let verbs = strings(&rule["verbs"]);
        assert!(verbs.iter().all(|verb| !changes_anything.contains(&verb.as_str())), "{rule}");
    }
}

#[test]
fn access_entry_maps_to_group_of_role_bindings() {
    let access: Value = serde_saphyr::from_str(ACCESS).unwrap();
    let group = &access["Parameters"]["Group"]["Default"];
    let entry = &access["Resources"]["Access"]["Properties"];
    assert_eq!(entry["KubernetesGroups"], json!(["Group"]));
    // The entry uses none of EKS's own policies.
    assert_eq!(entry["AccessPolicies"], Value::Null);
    for manifest in [CLUSTER_RIGHTS, CLUSTER_POLICY] {
        for kind in ["RoleBinding", "ClusterRoleBinding"] {
            for binding in documents_of_kind(manifest, kind) {
                assert_eq!(binding["subjects"][0]["name"], *group);
            }
        }
    }
}

#[test]
fn role_is_bound_only_to_function_group() {
    for (manifest, role, binding) in [
        (CLUSTER_RIGHTS, "Role", "RoleBinding"),
        (CLUSTER_POLICY, "ClusterRole", "ClusterRoleBinding"),
    ] {
        let names = |kind: &str, pointer: &str| -> Vec<Value> {
            let documents = documents_of_kind(manifest, kind);
            documents.iter().map(|it| it.pointer(pointer).cloned().unwrap_or_default()).collect()
        };
        assert_eq!(names(role, "/metadata/name"), names(binding, "/roleRef/name"));
        for binding in documents_of_kind(manifest, binding) {
            let group = serde_json::json!([{
                "kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "changeover",
            }]);
            assert_eq!(binding["subjects"], group);
        }
    }
}

#[test]
fn mutating_rights_are_limited_by_admission_policy() {
    let policies = documents_of_kind(CLUSTER_POLICY, "ValidatingAdmissionPolicy");
    let bound: Vec<_> = documents_of_kind(CLUSTER_POLICY, "ValidatingAdmissionPolicyBinding")
        .iter()
        .map(|binding| {
            assert_eq!(strings(&binding["spec"]["validationActions"]), ["Deny"]);
            binding["spec"]["policyName"].clone()
        })
        .collect();
    let names: Vec<_> = policies.iter().map(|policy| policy["metadata"]["name"].clone()).collect();
    assert_eq!(bound, names);
    let limited: Vec<(String, String)> = policies
        .iter()
        .inspect(|policy| assert_eq!(policy["spec"]["failurePolicy"], "Fail"))
        .flat_map(|policy| policy["spec"]["matchConstraints"]["resourceRules"].as_array().cloned())
        .flatten()
        .flat_map(|rule| each_resource(&rule))
        .collect();
    let everywhere = rules(CLUSTER_POLICY, "ClusterRole");
    for rule in rules(CLUSTER_RIGHTS, "Role").iter().chain(&everywhere) {
        let verbs = strings(&rule["verbs"]);
        if verbs.iter().any(|verb| !["get", "list", "watch"].contains(&verb.as_str())) {
            for (group, resource) in each_resource(rule) {
                let is_limited = limited.contains(&(group.clone(), resource))
                    || limited.contains(&(group, "*".to_owned()));
                assert!(is_limited, "{rule}");
            }
        }
    }
}

#[test]
fn cluster_rights_match_kinds_named_by_adapter() {
    let everywhere = rules(CLUSTER_POLICY, "ClusterRole");
    let granted: BTreeSet<String> = rules(CLUSTER_RIGHTS, "Role")
        .iter()
        .chain(&everywhere)
        .flat_map(|rule| strings(&rule["resources"]))
        .collect();
    // Every identity may review its own rights. Stores of both kinds are read as one type.
    let asked: BTreeSet<String> = kubernetes_resources()
        .into_iter()
        .filter(|it| it != "selfsubjectaccessreviews" && it != "stores")
        .chain(["secretstores", "clustersecretstores"].map(str::to_owned))
        .chain(["deployments", "statefulsets", "daemonsets", "cronjobs", "jobs"].map(str::to_owned))
        .collect();
    assert_eq!(granted, asked);
}

/// Objects of one kind in a manifest.
fn documents_of_kind(manifest: &str, kind: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).unwrap();
    documents.into_iter().filter(|document| document["kind"] == kind).collect()
}

/// Rules of all roles of this kind.
fn rules(manifest: &str, kind: &str) -> Vec<Value> {
    let roles = documents_of_kind(manifest, kind);
    roles.iter().flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default()).collect()
}

/// Every pair of an API group and a resource of the rule.
fn each_resource(rule: &Value) -> Vec<(String, String)> {
    let resources = strings(&rule["resources"]);
    let groups = strings(&rule["apiGroups"]).into_iter();
    groups.flat_map(|group| resources.iter().map(move |it| (group.clone(), it.clone()))).collect()
}

#[test]
fn workflow_actions_are_pinned_by_full_hash() {
    let uses: Vec<_> =
        WORKFLOW.lines().filter_map(|line| line.trim().strip_prefix("- uses: ")).collect();
    assert!(!uses.is_empty());
    for action in uses {
        let hash = action.split_whitespace().next().and_then(|action| action.split('@').nth(1));
        let is_whole = hash
            .is_some_and(|hash| hash.len() == 40 && hash.chars().all(|it| it.is_ascii_hexdigit()));
        assert!(is_whole, "{action} is not pinned by a hash");
    }
}

/// The template. Tags are dropped: `!Ref Table` is read as `"Table"`, `!If [a, b, c]` as a list.
pub(crate) fn template() -> Value {
    serde_saphyr::from_str(TEMPLATE).unwrap()
}

fn resource(name: &str) -> Value {
    let resource = template()["Resources"][name].take();
    assert!(resource.is_object(), "the template has no resource {name}");
    resource
}

/// Statements of a policy, including those that depend on a condition.
pub(crate) fn statements(resource_name: &str, policy: &str) -> Vec<Value> {
    let statements = resource(resource_name)["Properties"][policy]["Statement"].take();
    let Value::Array(statements) = statements else { panic!("{resource_name} has no statements") };
    statements
        .into_iter()
        .map(|mut statement| match statement.as_array_mut() {
            Some(conditional) => conditional.remove(1),
            None => statement,
        })
        .collect()
}

/// True if Lambda uses these rights on behalf of the function: the function's own code makes none of these
/// calls.
fn done_by_lambda(statement: &Value) -> bool {
    let statements =
        ["WriteTheLog", "KeepFailedEvents", "SendTraces", "AttachToTheVpc", "LeaveTheVpcToLambda"];
    statements.iter().any(|sid| statement["Sid"] == *sid)
}

/// Statements of the sealing key's own policy for the function's role.
fn seals() -> Vec<Value> {
    let mut statements = statements("SealingKey", "KeyPolicy");
    statements.retain(|statement| statement["Principal"]["AWS"] == "RotatorRole.Arn");
    statements
}

/// The function's variables as a deployment with the template's defaults sets them.
pub(crate) fn environment() -> BTreeMap<String, String> {
    let template = template();
    let variables = &resource("Rotator")["Properties"]["Environment"]["Variables"];
    variables
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let value = match value.as_str() {
                Some("Table") => "changeover-Table-1A2B3C4D",
                Some(key) if key.ends_with("Key.Arn") => {
                    "arn:aws:kms:eu-west-1:123456789012:key/1a2b3c4d-1234-5678-9abc-1a2b3c4d5e6f"
                }
                Some(parameter) => template["Parameters"][parameter]["Default"].as_str().unwrap(),
                // `!If`: a variable that is set only under a condition, which does not hold by default.
                None => "",
            };
            (name.clone(), value.to_owned())
        })
        .collect()
}

/// Permissions that the adapters' calls need, read from their source.
fn operations() -> BTreeSet<String> {
    let mut operations = BTreeSet::new();
    for source in sources::under("crates/aws/src") {
        let code = source.without_spaces();
        for service in
            ["codepipeline", "dynamodb", "eks", "eventbridge", "kms", "lambda", "ssm", "sts"]
        {
            for (at, taken) in code.match_indices(&format!(".{service}()")) {
                let call = code[at + taken.len()..].strip_prefix('.');
                let call = call.and_then(|call| call.split('(').next()).unwrap_or_else(|| {
                    panic!("{}: call the client of {service} where it is taken", source.path)
                });
                match (service, call) {
                    (_, transaction) if transaction.starts_with("transact_") => false,
                    // The only call that is authorized under another name.
                    // https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html
                    ("lambda", "invoke") => operations.insert("lambda:InvokeFunction".to_owned()),
                    // The only service that is authorized under another name.
                    // https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoneventbridge.html
                    ("eventbridge", _) => {
                        operations.insert(format!("events:{}", in_camel_case(call)))
                    }
                    _ => operations.insert(format!("{service}:{}", in_camel_case(call))),
                };
            }
        }
        // A transaction is authorized by the operations that it consists of.
        // https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
        for (part, action) in [
            ("Get::builder()", "GetItem"),
            ("Put::builder()", "PutItem"),
            ("Update::builder()", "UpdateItem"),
            ("Delete::builder()", "DeleteItem"),
            ("ConditionCheck::builder()", "ConditionCheckItem"),
        ] {
            if code.contains(part) {
                operations.insert(format!("dynamodb:{action}"));
            }
        }
    }
    operations
}

/// Kubernetes resources that the cluster's adapter names, read from its source: `Api<Pod>` is `pods`.
fn kubernetes_resources() -> BTreeSet<String> {
    sources::under("crates/kubernetes/src")
        .iter()
        .map(sources::Source::without_spaces)
        .flat_map(|code| {
            let asked = code.match_indices("Api<").map(|(at, _)| named_last(&code[at..]));
            // Types that fill in the parameter of a generic function.
            let rolled = code.match_indices("implRolledfor").map(|(at, found)| {
                code[at + found.len()..].split('{').next().unwrap_or_default().to_owned()
            });
            asked.chain(rolled).collect::<Vec<_>>()
        })
        // The parameter of a generic function itself is not a kind.
        .filter(|kind| kind.len() > 1)
        .map(|kind| format!("{}s", kind.to_lowercase()))
        .collect()
}

/// The last name before a type's first closing bracket: `Secret` of `Api<PartialObjectMeta<v1::Secret>>`.
fn named_last(code: &str) -> String {
    let until_closed = code.split('>').next().unwrap_or_default();
    until_closed.rsplit(['<', ':']).next().unwrap_or_default().to_owned()
}

fn in_camel_case(name: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(word).collect()
}

fn example(event: &str) -> Value {
    serde_json::from_str(event).unwrap()
}
