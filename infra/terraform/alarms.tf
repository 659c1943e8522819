# Alarms. The key of each is the heading of its runbook in infra/runbooks.md; why its numbers are so is said in template.yaml.
locals {
  alarms = {
    rotation-held = {
      description = "A rotation waits for help: a workload does not take the new token up. Both tokens stay valid."
      namespace   = "changeover"
      metric      = "Outcomes"
      dimensions  = { FunctionName = aws_lambda_function.rotator.function_name, Outcome = "held" }
      statistic   = "Sum"
      period      = 3600
      missing     = "notBreaching"
    }
    rotation-overdue = {
      description = "A token has waited for more than an hour for what it owes: a step, or the end of an old token."
      namespace   = "changeover"
      metric      = "Overdue"
      dimensions  = { FunctionName = aws_lambda_function.rotator.function_name }
      statistic   = "Maximum"
      period      = 300
      operator    = "GreaterThanThreshold"
      threshold   = 3600
      missing     = "ignore"
    }
    tokens-stuck = {
      description = "At least one token cannot be carried on: its spec, its record, or what it reads is gone or broken. Both of its tokens stay valid."
      namespace   = "changeover"
      metric      = "StuckTokens"
      dimensions  = { FunctionName = aws_lambda_function.rotator.function_name }
      statistic   = "Minimum"
      period      = 300
      evaluations = 3
      missing     = "notBreaching"
    }
    sweep-missing = {
      description = "No sweep completed for five minutes: owed steps are not carried on, and old tokens do not end."
      namespace   = "changeover"
      metric      = "Sweeps"
      dimensions  = { FunctionName = aws_lambda_function.rotator.function_name }
      statistic   = "Sum"
      period      = 60
      evaluations = 5
      operator    = "LessThanThreshold"
      missing     = "breaching"
    }
    function-errors = {
      description = "Invocations of changeover fail again and again. Tokens stay valid; rotations may fail to begin or to continue."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions  = { FunctionName = aws_lambda_function.rotator.function_name }
      statistic   = "Sum"
      period      = 60
      evaluations = 5
      datapoints  = 3
      missing     = "notBreaching"
    }
    function-throttled = {
      description = "Lambda turns invocations of changeover away. Rotations are late, and the sweep does not carry them on."
      namespace   = "AWS/Lambda"
      metric      = "Throttles"
      dimensions  = { FunctionName = aws_lambda_function.rotator.function_name }
      statistic   = "Sum"
      period      = 300
      missing     = "notBreaching"
    }
    failed-events = {
      description = "The function failed on an event for good: a rotation that was asked for did not begin."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.failed_events.name }
      statistic   = "Maximum"
      period      = 300
      missing     = "notBreaching"
    }
    sweep-errors = {
      description = "Two sweeps in a row failed. The next one comes within a minute."
      namespace   = "AWS/Lambda"
      metric      = "Errors"
      dimensions = {
        FunctionName = aws_lambda_function.rotator.function_name
        Resource     = "${aws_lambda_function.rotator.function_name}:${aws_lambda_alias.sweep.name}"
      }
      statistic   = "Sum"
      period      = 60
      evaluations = 2
      missing     = "notBreaching"
    }
  }
  alarms_of_the_schedule = {
    for name in ["schedule-undelivered"] : name => {
      description = "The schedule could not invoke changeover for hours. The token was not rotated this time."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.undelivered_events[0].name }
      statistic   = "Maximum"
      period      = 300
      missing     = "notBreaching"
    }
    if var.scheduled_token != ""
  }
  alarms_of_the_inbox = {
    for name in ["inbox-undelivered"] : name => {
      description = "A token arrived in the inbox, and EventBridge could not invoke changeover for a day. The token is not in use."
      namespace   = "AWS/SQS"
      metric      = "ApproximateNumberOfMessagesVisible"
      dimensions  = { QueueName = aws_sqs_queue.inbox_undelivered[0].name }
      statistic   = "Maximum"
      period      = 300
      missing     = "notBreaching"
    }
    if var.inbox_path != ""
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = merge(local.alarms, local.alarms_of_the_schedule, local.alarms_of_the_inbox)

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description} Runbook: infra/runbooks.md#${each.key}"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = each.value.period
  evaluation_periods  = lookup(each.value, "evaluations", 1)
  datapoints_to_alarm = lookup(each.value, "datapoints", lookup(each.value, "evaluations", 1))
  threshold           = lookup(each.value, "threshold", 1)
  comparison_operator = lookup(each.value, "operator", "GreaterThanOrEqualToThreshold")
  treat_missing_data  = each.value.missing
  alarm_actions       = var.alarm_topic == "" ? [] : [var.alarm_topic]
  ok_actions          = var.alarm_topic == "" ? [] : [var.alarm_topic]
}
