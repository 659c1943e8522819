//! Invokers of the function, which are the sweep and schedules, and the handling of failed events.

use serde_json::{Value, json};

use super::{example, resource, statements, strings, template};

#[test]
fn failed_sweep_is_not_repeated() {
    let invocations = &resource("SweepInvocations")["Properties"];
    assert_eq!(invocations["Qualifier"], resource("SweepAlias")["Properties"]["Name"]);
    assert_eq!(invocations["MaximumRetryAttempts"], 0);
    assert_eq!(invocations["MaximumEventAgeInSeconds"], 60);
    let sweep = &resource("Sweep")["Properties"];
    assert_eq!(sweep["ScheduleExpression"], "rate(1 minute)");
    let target = &sweep["Targets"][0];
    assert_eq!(target["Arn"], "SweepAlias");
    let input: Value = serde_json::from_str(target["Input"].as_str().unwrap()).unwrap();
    assert_eq!(input, example(include_str!("../../../events/sweep.json")));
}

#[test]
fn undelivered_sweep_is_not_repeated() {
    let policy = &resource("Sweep")["Properties"]["Targets"][0]["RetryPolicy"];
    assert_eq!(*policy, json!({"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}));
}

#[test]
fn failed_event_is_retried_and_then_kept() {
    let latest = ("UnqualifiedInvocations", "$LATEST");
    for (invocations, qualifier) in [("EventInvocations", "live"), latest] {
        let invocations = &resource(invocations)["Properties"];
        assert_eq!(invocations["FunctionName"], "Rotator");
        assert_eq!(invocations["Qualifier"], qualifier);
        assert_eq!(invocations["MaximumRetryAttempts"], 2);
        assert_eq!(invocations["MaximumEventAgeInSeconds"], 6 * 60 * 60);
        let kept = json!({"OnFailure": {"Destination": "FailedEvents.Arn"}});
        assert_eq!(invocations["DestinationConfig"], kept);
    }
    let keeps = statements("RotatorPolicy", "PolicyDocument");
    let keeps = keeps.iter().find(|it| it["Sid"] == "KeepFailedEvents").unwrap();
    assert_eq!(keeps["Action"], "sqs:SendMessage");
    assert_eq!(keeps["Resource"], "FailedEvents.Arn");
    // A failed sweep is not kept: the next sweep replaces it.
    assert_eq!(resource("SweepInvocations")["Properties"]["DestinationConfig"], Value::Null);
}

#[test]
fn event_queues_are_encrypted_with_maximum_retention() {
    for queue in ["FailedEvents", "UndeliveredEvents"] {
        let properties = &resource(queue)["Properties"];
        assert_eq!(properties["SqsManagedSseEnabled"], true);
        // https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
        assert_eq!(properties["MessageRetentionPeriod"], 14 * 24 * 60 * 60);
    }
}

#[test]
fn event_queues_refuse_other_senders() {
    for (queue, denied) in [
        ("FailedEvents", vec![json!({"ArnNotEquals": {"aws:PrincipalArn": "RotatorRole.Arn"}})]),
        (
            "UndeliveredEvents",
            vec![
                json!({"Bool": {"aws:PrincipalIsAWSService": "false"}}),
                json!({"ArnNotEquals": {"aws:PrincipalArn": "SchedulerRole.Arn"}}),
            ],
        ),
    ] {
        let policy = format!("{queue}Policy");
        assert_eq!(resource(&policy)["Properties"]["Queues"], json!([queue]));
        let (allows, denies): (Vec<_>, Vec<_>) = statements(&policy, "PolicyDocument")
            .into_iter()
            .inspect(|it| assert_eq!(it["Resource"], format!("{queue}.Arn")))
            .partition(|it| it["Effect"] == "Allow");
        for deny in &denies {
            assert_eq!((&deny["Effect"], &deny["Principal"]), (&json!("Deny"), &json!("*")));
            assert_eq!(deny["Action"], "sqs:SendMessage");
        }
        let conditions: Vec<_> = denies.iter().map(|it| it["Condition"].clone()).collect();
        assert_eq!(conditions, denied);
        for allow in allows {
            assert_eq!(allow["Principal"], json!({"Service": "events.amazonaws.com"}));
            let of_the_rule = json!({"ArnEquals": {"aws:SourceArn": "RotationRule.Arn"}});
            assert_eq!(allow["Condition"], of_the_rule);
        }
    }
}

#[test]
fn undelivered_event_is_retried_for_hours_then_kept() {
    let rule = &resource("RotationRule")["Properties"]["Targets"][0];
    let schedule = &resource("RotationSchedule")["Properties"]["Target"];
    for target in [rule, schedule] {
        assert_eq!(target["Arn"], "Rotator.Alias");
        let tries = json!({"MaximumRetryAttempts": 185, "MaximumEventAgeInSeconds": 6 * 60 * 60});
        assert_eq!(target["RetryPolicy"], tries);
        assert_eq!(target["DeadLetterConfig"], json!({"Arn": "UndeliveredEvents.Arn"}));
    }
}

#[test]
fn rule_and_schedule_are_mutually_exclusive() {
    let conditions = &template()["Conditions"];
    for (condition, by) in [("HasRotationRule", "rule"), ("HasRotationSchedule", "scheduler")] {
        assert_eq!(conditions[condition], json!(["HasSchedule", ["ScheduledBy", by]]));
    }
    for (name, condition) in [
        ("RotationRule", "HasRotationRule"),
        ("RotationRulePermission", "HasRotationRule"),
        ("RotationSchedule", "HasRotationSchedule"),
        ("SchedulerRole", "HasRotationSchedule"),
        ("UndeliveredEvents", "HasSchedule"),
        ("UndeliveredEventsPolicy", "HasSchedule"),
    ] {
        assert_eq!(resource(name)["Condition"], condition, "{name}");
    }
}

#[test]
fn schedule_has_time_zone_window_and_own_role() {
    let schedule = &resource("RotationSchedule")["Properties"];
    assert_eq!(schedule["ScheduleExpressionTimezone"], "ScheduleTimezone");
    let window = json!([
        "HasWindow",
        {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": "ScheduleWindow"},
        {"Mode": "OFF"},
    ]);
    assert_eq!(schedule["FlexibleTimeWindow"], window);
    assert_eq!(schedule["Target"]["RoleArn"], "SchedulerRole.Arn");
    let role = &resource("SchedulerRole")["Properties"];
    let trusts = &role["AssumeRolePolicyDocument"]["Statement"];
    assert_eq!(trusts.as_array().unwrap().len(), 1);
    assert_eq!(trusts[0]["Principal"], json!({"Service": "scheduler.amazonaws.com"}));
    assert_eq!(trusts[0]["Condition"]["StringEquals"]["aws:SourceAccount"], "AWS::AccountId");
    let may = role["Policies"][0]["PolicyDocument"]["Statement"].as_array().unwrap();
    let may: Vec<_> = may.iter().map(|it| (strings(&it["Action"]), &it["Resource"])).collect();
    assert_eq!(
        may,
        [
            (vec!["lambda:InvokeFunction".to_owned()], &json!("Rotator.Alias")),
            (vec!["sqs:SendMessage".to_owned()], &json!("UndeliveredEvents.Arn")),
        ]
    );
}

#[test]
fn rules_and_schedules_send_example_events() {
    let transformer = &resource("RotationRule")["Properties"]["Targets"][0]["InputTransformer"];
    assert_eq!(transformer["InputPathsMap"], json!({"time": "$.time"}));
    let rule = "arn:aws:events:eu-west-1:123456789012:rule/changeover-RotationRule-1A2B3C4D";
    let schedule = "arn:aws:scheduler:eu-west-1:123456789012:schedule/default/changeover-RotationSchedule-1A2B3C4D";
    for (input, sent) in [
        (&transformer["InputTemplate"], include_str!("../../../events/eventbridge-rule.json")),
        (
            &resource("RotationSchedule")["Properties"]["Target"]["Input"],
            include_str!("../../../events/scheduler.json"),
        ),
    ] {
        let filled_in = input
            .as_str()
            .unwrap()
            .replace("${ScheduledToken}", "datastore-token")
            .replace("<aws.events.rule-arn>", rule)
            .replace("<time>", "2026-12-01T04:00:00Z")
            .replace("<aws.scheduler.schedule-arn>", schedule)
            .replace("<aws.scheduler.scheduled-time>", "2026-12-01T04:00:00Z");
        let filled_in: Value = serde_json::from_str(&filled_in).unwrap();
        assert_eq!(filled_in, example(sent));
    }
}
