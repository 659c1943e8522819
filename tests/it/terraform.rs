//! The Terraform module against template.yaml: both deploy the same.

use std::collections::{BTreeMap, BTreeSet};

use changeover_testkit::schema::strings;
use serde_json::Value;

use crate::template;

const VARIABLES: &str = include_str!("../../infra/terraform/variables.tf");
const FILES: [&str; 9] = [
    include_str!("../../infra/terraform/versions.tf"),
    VARIABLES,
    include_str!("../../infra/terraform/function.tf"),
    include_str!("../../infra/terraform/records.tf"),
    include_str!("../../infra/terraform/iam.tf"),
    include_str!("../../infra/terraform/events.tf"),
    include_str!("../../infra/terraform/alarms.tf"),
    include_str!("../../infra/terraform/dashboard.tf"),
    include_str!("../../infra/terraform/outputs.tf"),
];
/// Parameter groups that only CodeDeploy and emulators need.
const GROUPS_WITHOUT_VARIABLES: [&str; 2] =
    ["How a new version takes over", "Against an emulator only"];
const VARIABLES_OF_ITS_OWN: [&str; 3] = ["name", "package", "live_version"];
/// The alarm that only CodeDeploy needs.
const ALARM_OF_CODE_DEPLOY: &str = "new-version-errors";
/// A string in the template, in which empty means none. It is a number in the module, in which null means
/// none.
const NUMBER_OR_NULL: &str = "ReservedConcurrency";
/// The module's resource for each of CloudFormation's types. Alarms are one resource in the module, and are
/// compared one by one.
const RESOURCES: [(&str, &str); 15] = [
    ("AWS::CloudWatch::Dashboard", "aws_cloudwatch_dashboard"),
    ("AWS::DynamoDB::Table", "aws_dynamodb_table"),
    ("AWS::Events::Rule", "aws_cloudwatch_event_rule"),
    ("AWS::IAM::ManagedPolicy", "aws_iam_policy"),
    ("AWS::IAM::Policy", "aws_iam_role_policy"),
    ("AWS::IAM::Role", "aws_iam_role"),
    ("AWS::KMS::Alias", "aws_kms_alias"),
    ("AWS::KMS::Key", "aws_kms_key"),
    ("AWS::Lambda::Alias", "aws_lambda_alias"),
    ("AWS::Lambda::EventInvokeConfig", "aws_lambda_function_event_invoke_config"),
    ("AWS::Lambda::Permission", "aws_lambda_permission"),
    ("AWS::Logs::LogGroup", "aws_cloudwatch_log_group"),
    ("AWS::SQS::Queue", "aws_sqs_queue"),
    ("AWS::Scheduler::Schedule", "aws_scheduler_schedule"),
    ("AWS::Serverless::Function", "aws_lambda_function"),
];

#[test]
fn variables_and_outputs_match_template() {
    let own = VARIABLES_OF_ITS_OWN.map(str::to_owned);
    let expected = parameters().into_keys().map(|name| in_snake_case(&name)).chain(own);
    assert_eq!(labels("variable"), expected.collect());
    let template = template::template();
    let outputs = template["Outputs"].as_object().unwrap().keys();
    assert_eq!(labels("output"), outputs.map(|name| in_snake_case(name)).collect());
}

#[test]
fn variable_has_default_and_constraints_of_parameter() {
    for (name, parameter) in parameters() {
        let variable = in_snake_case(&name);
        let start = format!("variable \"{variable}\" {{\n");
        let written = in_short(between(VARIABLES, &start, "\n}"));
        let line = |start: &str| {
            written.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned)
        };

        // The type and the default of the parameter, in Terraform's terms.
        let is_number = parameter["Type"] == "Number" || name == NUMBER_OR_NULL;
        let (kind, default) = match (&parameter["Type"], &parameter["Default"]) {
            (Value::String(kind), default) if kind == "CommaDelimitedList" => {
                assert_eq!(default, "", "{name}");
                ("list(string)", Some("[]".to_owned()))
            }
            (_, Value::Null) => ("string", None),
            (_, default) if is_number && default == "" => ("number", Some("null".to_owned())),
            (_, default) => {
                (if is_number { "number" } else { "string" }, Some(default.to_string()))
            }
        };
        assert_eq!(
            (line("type = ").as_deref(), line("default = ")),
            (Some(kind), default),
            "{name}"
        );

        // The parameter's constraints become the condition of the variable's validation.
        let condition = match (&parameter["AllowedPattern"], &parameter["AllowedValues"]) {
            (Value::String(pattern), _) if name == NUMBER_OR_NULL => {
                let pattern = pattern.strip_prefix('(').unwrap().strip_suffix(")?").unwrap();
                Some(format!(
                    "var.{variable} == null || can(regex(\"^{pattern}$\", var.{variable}))"
                ))
            }
            (Value::String(pattern), _) => {
                Some(format!("can(regex(\"^{pattern}$\", var.{variable}))"))
            }
            (_, Value::Array(values)) => {
                let values: Vec<_> = values.iter().map(Value::to_string).collect();
                Some(format!("contains([{}], var.{variable})", values.join(", ")))
            }
            _ => parameter.get("MaxValue").map(|most| {
                let least = &parameter["MinValue"];
                format!("var.{variable} >= {least} && var.{variable} <= {most}")
            }),
        };
        assert_eq!(line("condition = "), condition, "{name}");
    }
}

#[test]
fn function_has_same_environment_variables() {
    let given: BTreeSet<_> = module()
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| name.starts_with("CHANGEOVER_"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let of_an_emulator = ["AWS_ENDPOINT_URL", "CHANGEOVER_LEASE", "CHANGEOVER_LATE_WRITE"];
    let mut set: BTreeSet<_> = template::environment().into_keys().collect();
    set.retain(|name| !of_an_emulator.contains(&name.as_str()));
    assert_eq!(given, set);
}

#[test]
fn function_settings_match_template() {
    let template = template::template();
    let module = module();
    let function = between(&module, "resource \"aws_lambda_function\" ", "\nresource ");
    for (property, argument) in [
        ("Description", "description"),
        ("Handler", "handler"),
        ("MemorySize", "memory_size"),
        ("Runtime", "runtime"),
        ("Timeout", "timeout"),
    ] {
        let line =
            format!("{argument} = {}", template["Resources"]["Rotator"]["Properties"][property]);
        assert!(function.lines().any(|it| it == line), "the function lacks {line}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn grants_and_conditions_match_template() {
    let template = template::template();
    // All statements of the template, by their Sid.
    let mut granted = BTreeMap::new();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        let policy = match resource["Type"].as_str().unwrap() {
            "AWS::IAM::Policy" | "AWS::IAM::ManagedPolicy" | "AWS::SQS::QueuePolicy" => {
                "PolicyDocument"
            }
            "AWS::KMS::Key" => "KeyPolicy",
            "AWS::IAM::Role" => {
                for policy in resource["Properties"]["Policies"].as_array().into_iter().flatten() {
                    for statement in policy["PolicyDocument"]["Statement"].as_array().unwrap() {
                        let sid = statement["Sid"].as_str().unwrap().to_owned();
                        granted.insert(sid, statement.clone());
                    }
                }
                continue;
            }
            _ => continue,
        };
        for statement in template::statements(name, policy) {
            granted.insert(statement["Sid"].as_str().unwrap().to_owned(), statement);
        }
    }
    // All statements of the module, by their Sid: each must occur once, and there must be no others.
    let module = module();
    let written: BTreeMap<_, _> = module
        .split("Sid = \"")
        .skip(1)
        .map(|statement| statement.split_once('"').unwrap())
        .collect();
    assert_eq!(module.matches("Sid = \"").count(), written.len(), "a statement is there twice");
    assert_eq!(
        written.keys().copied().collect::<BTreeSet<_>>(),
        granted.keys().map(String::as_str).collect()
    );
    // The texts differ in syntax, so each part of a statement is compared on its own.
    for (sid, statement) in granted {
        let text = written[sid.as_str()];
        assert!(text.contains(&format!("Effect = {}", statement["Effect"])), "{sid}");
        let actions = between(text, "Action = ", "Resource = ");
        let actions = actions.replace("local.interfaces", between(&module, "interfaces = [", "]"));
        assert_eq!(
            quote_for_log(&actions),
            strings(&statement["Action"]).into_iter().collect(),
            "{sid}"
        );
        let everything = statement["Resource"] == "*";
        assert_eq!(text.contains("Resource = \"*\""), everything, "{sid}");
        for path in strings(&statement["Resource"]) {
            if let Some((_, path)) = path.split_once("${AWS::AccountId}:parameter") {
                assert!(
                    text.contains(&format!("local.parameters}}{}\"", in_hcl(path))),
                    "{sid}: {path}"
                );
            }
        }
        for (operator, keys) in statement["Condition"].as_object().into_iter().flatten() {
            // Conditions that an option adds are written once, beside the statements.
            let options = between(&module, "published_items = {", "rotator = [");
            let conditional = keys.get(1).filter(|_| keys.is_array());
            let text = if conditional.is_some() { options } else { text };
            assert!(text.contains(operator.as_str()), "{sid}: {operator}");
            for key in conditional.unwrap_or(keys).as_object().unwrap().keys() {
                let is_there = text.contains(&format!("\"{key}\""))
                    || key == "kms:ViaService" && text.contains("local.via_parameter_store");
                assert!(is_there, "{sid}: {key}");
            }
        }
    }
}

#[test]
fn alarm_definitions_match_template() {
    let template = template::template();
    let module = module();
    let mut alarms = BTreeSet::new();
    for alarm in template["Resources"].as_object().unwrap().values() {
        let properties = &alarm["Properties"];
        let name = properties["AlarmName"].as_str().unwrap_or_default();
        let Some(name) = name.strip_prefix("${AWS::StackName}-") else { continue };
        if name == ALARM_OF_CODE_DEPLOY {
            continue;
        }
        alarms.insert(name.to_owned());
        let text = module
            .split_once(&format!("\n{name} = {{\n"))
            .or_else(|| module.split_once(&format!("for name in [\"{name}\"] :")))
            .unwrap_or_else(|| panic!("the module has no alarm {name}"));
        let text = text.1.split("\nmissing = ").next().unwrap().to_owned()
            + &format!("\nmissing = {}", between(text.1, "\nmissing = ", "\n"));
        let field = |field: &str, default: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{field} = ")));
            value.unwrap_or(default).trim_matches('"').to_owned()
        };
        let evaluations = field("evaluations", "1");
        for (property, written) in [
            ("Namespace", field("namespace", "")),
            ("MetricName", field("metric", "")),
            ("Statistic", field("statistic", "")),
            ("Period", field("period", "")),
            ("EvaluationPeriods", evaluations.clone()),
            ("DatapointsToAlarm", field("datapoints", &evaluations)),
            ("Threshold", field("threshold", "1")),
            ("ComparisonOperator", field("operator", "GreaterThanOrEqualToThreshold")),
            ("TreatMissingData", field("missing", "")),
        ] {
            let expected = match (property, &properties[property]) {
                ("DatapointsToAlarm", Value::Null) => evaluations.clone(),
                (_, Value::String(text)) => text.clone(),
                (_, other) => other.to_string(),
            };
            assert_eq!(written, expected, "{name}: {property}");
        }
        let mut dimensions = BTreeSet::new();
        for dimension in properties["Dimensions"].as_array().into_iter().flatten() {
            let key = dimension["Name"].as_str().unwrap();
            dimensions.insert(key.to_owned());
            let value = match dimension["Value"].as_str().unwrap() {
                "Rotator" => "aws_lambda_function.rotator.function_name".to_owned(),
                // A value of another resource: the module names that resource in its own way.
                other if other.contains(['.', '$']) => String::new(),
                literal => format!("\"{literal}\""),
            };
            assert!(text.contains(&format!("{key} = {value}")), "{name}: {key} = {value}");
        }
        let written = between(&text, "dimensions = {", "\nstatistic = ").split(" = ");
        let written = written.map(|it| it.rsplit([' ', '\n', '{']).next().unwrap().to_owned());
        let mut written: Vec<_> = written.collect();
        // The part after the last separator is a value, not a name.
        written.pop();
        assert_eq!(written.into_iter().collect::<BTreeSet<_>>(), dimensions, "{name}");
    }
}

#[test]
fn dashboard_graphs_match_template() {
    let template = template::template();
    let module = module();
    let titles: BTreeSet<_> =
        module.lines().filter_map(|line| line.strip_prefix("title = ")).collect();
    let body = &template["Resources"]["Dashboard"]["Properties"]["DashboardBody"];
    let body: Value = serde_json::from_str(body.as_str().unwrap()).unwrap();
    let graphs = || body["widgets"].as_array().unwrap().iter().skip(1).map(|it| &it["properties"]);
    let shown: BTreeSet<_> = graphs().map(|graph| graph["title"].to_string()).collect();
    assert_eq!(titles, shown.iter().map(String::as_str).collect());
    assert!(module.contains("\nshown = aws_lambda_function.rotator.function_name\n"));
    for row in graphs().flat_map(|graph| graph["metrics"].as_array().unwrap()) {
        let written = match row[0].get("expression") {
            Some(search) => {
                format!("\nexpression = {search}\n").replace("${Rotator}", "${local.shown}")
            }
            None => {
                let named = strings(row).into_iter().map(|name| match name.as_str() {
                    "${Rotator}" => "local.shown, ".to_owned(),
                    name => format!("\"{name}\", "),
                });
                format!("\n[{}{{", named.collect::<String>())
            }
        };
        assert!(module.contains(&written), "the module does not show {written}");
    }
}

#[test]
fn records_and_keys_are_protected_from_destroy() {
    let module = module();
    let table = between(&module, "resource \"aws_dynamodb_table\"", "\nlocals {");
    for line in [
        "deletion_protection_enabled = true",
        "hash_key = \"pk\"",
        "range_key = \"sk\"",
        "hash_key = \"owed\"",
        "range_key = \"due_at\"",
        "projection_type = \"KEYS_ONLY\"",
        "attribute_name = \"expires_at\"",
        "kms_key_arn = aws_kms_key.publication.arn",
        "prevent_destroy = true",
    ] {
        assert!(table.lines().any(|it| it == line), "the table lacks {line}");
    }
    assert!(table.contains("point_in_time_recovery {\nenabled = true\n}"));
    for key in module.split("resource \"aws_kms_key\" ").skip(1) {
        let key = key.split("\nresource ").next().unwrap();
        assert!(
            key.contains("enable_key_rotation = true") && key.contains("prevent_destroy = true")
        );
    }
    assert!(module.contains("retention_in_days = 90"));
}

#[test]
fn resources_and_sent_events_match_template() {
    let template = template::template();
    let module = module();
    let of = |kind: &str| {
        let resources = template["Resources"].as_object().unwrap().values();
        resources.filter(|it| it["Type"] == kind).cloned().collect::<Vec<_>>()
    };
    let mut expected: BTreeMap<_, _> =
        RESOURCES.iter().map(|&(kind, resource)| (resource, of(kind).len())).collect();
    let targets =
        of("AWS::Events::Rule").into_iter().map(|it| length(&it["Properties"]["Targets"]));
    expected.insert("aws_cloudwatch_event_target", targets.sum());
    expected.insert("aws_cloudwatch_metric_alarm", 1);
    // SAM creates the alias `live` with the function.
    *expected.get_mut("aws_lambda_alias").unwrap() += of("AWS::Serverless::Function").len();
    // A role may contain its policy.
    *expected.get_mut("aws_iam_role_policy").unwrap() +=
        of("AWS::IAM::Role").iter().map(|it| length(&it["Properties"]["Policies"])).sum::<usize>();
    let mut written = BTreeMap::new();
    for resource in module.split("\nresource \"").skip(1) {
        *written.entry(resource.split('"').next().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(written, expected);
    let known: BTreeSet<_> = RESOURCES.iter().map(|(kind, _)| *kind).collect();
    for (name, resource) in template["Resources"].as_object().unwrap() {
        let kind = resource["Type"].as_str().unwrap();
        // In the module, a queue contains its policy.
        let is_within = ["AWS::CloudWatch::Alarm", "AWS::SQS::QueuePolicy"].contains(&kind);
        assert!(is_within || known.contains(kind), "what is {name} in the module?");
    }
    assert_eq!(of("AWS::SQS::QueuePolicy").len(), of("AWS::SQS::Queue").len());
    for queue in module.split("resource \"aws_sqs_queue\" ").skip(1) {
        let queue = queue.split("\nresource ").next().unwrap();
        assert!(queue.contains("sqs_managed_sse_enabled = true"), "{queue}");
        assert!(queue.contains("message_retention_seconds = 1209600"), "{queue}");
        assert!(queue.contains("policy = jsonencode({"), "{queue}");
    }
    for alias in ["live", "status", "sweep"] {
        assert!(module.contains(&format!("resource \"aws_lambda_alias\" \"{alias}\"")));
    }
    for rule in template["Resources"].as_object().unwrap().values() {
        let properties = &rule["Properties"];
        let targets = properties["Targets"].as_array().into_iter().flatten();
        for target in targets.chain(properties.get("Target")) {
            let sent = target["Input"].as_str();
            let sent =
                sent.or_else(|| target["InputTransformer"]["InputTemplate"].as_str()).unwrap();
            let sent = in_hcl(sent).replace('"', "\\\"");
            assert!(module.contains(&format!(" = \"{sent}\"")), "{sent}");
        }
    }
}

/// The template's parameters that the module has a variable for, by name.
fn parameters() -> BTreeMap<String, Value> {
    let template = template::template();
    let groups = &template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"];
    let groups = groups.as_array().unwrap().iter();
    let left_out: BTreeSet<_> = groups
        .filter(|group| {
            GROUPS_WITHOUT_VARIABLES.contains(&group["Label"]["default"].as_str().unwrap())
        })
        .flat_map(|group| strings(&group["Parameters"]))
        .collect();
    let parameters = template["Parameters"].as_object().unwrap();
    let ours = parameters.iter().filter(|(name, _)| !left_out.contains(*name));
    ours.map(|(name, parameter)| (name.clone(), parameter.clone())).collect()
}

/// Length of a list, or 0 if it is no list.
fn length(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// Text of the whole module.
fn module() -> String {
    FILES.iter().map(|file| in_short(file)).collect()
}

/// Lines without comments, without blanks at their ends, and without alignment.
fn in_short(text: &str) -> String {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |module, line| module + &line + "\n")
}

/// Names of the module's variables or outputs.
fn labels(kind: &str) -> BTreeSet<String> {
    let opening = format!("{kind} \"");
    let module = module();
    let labels = module.lines().filter_map(|line| line.strip_prefix(&opening));
    labels.map(|label| label.split('"').next().unwrap().to_owned()).collect()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("nothing says {from}"));
    rest.split(to).next().unwrap()
}

/// Texts in quotation marks.
fn quote_for_log(text: &str) -> BTreeSet<String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `${InboxPath}/*` as the module writes it: `${var.inbox_path}/*`.
fn in_hcl(text: &str) -> String {
    text.split_inclusive("${")
        .enumerate()
        .map(|(at, part)| match part.split_once('}') {
            Some((name, rest)) if at > 0 => format!("var.{}}}{rest}", in_snake_case(name)),
            _ => part.to_owned(),
        })
        .collect()
}

fn in_snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}
