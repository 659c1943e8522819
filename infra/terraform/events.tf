# The inbox. A token that is issued elsewhere arrives there, and that starts its rotation.
resource "aws_cloudwatch_event_rule" "inbox" {
  count       = var.inbox_path == "" ? 0 : 1
  name_prefix = "${var.name}-inbox-"
  description = "Imports each token that arrives under ${var.inbox_path}."
  event_pattern = jsonencode({
    source      = ["aws.ssm"]
    detail-type = ["Parameter Store Change"]
    detail = {
      name      = [{ prefix = "${var.inbox_path}/" }]
      operation = ["Create", "Update"]
    }
  })
}

resource "aws_cloudwatch_event_target" "inbox" {
  count     = var.inbox_path == "" ? 0 : 1
  rule      = aws_cloudwatch_event_rule.inbox[0].name
  target_id = "rotator"
  arn       = aws_lambda_alias.live.arn
  input_transformer {
    input_paths    = { parameter = "$.detail.name" }
    input_template = "{\"action\": \"import\", \"parameter\": \"<parameter>\"}"
  }
  retry_policy {
    maximum_event_age_in_seconds = 86400
    maximum_retry_attempts       = 185
  }
  dead_letter_config {
    arn = aws_sqs_queue.inbox_undelivered[0].arn
  }
}

resource "aws_lambda_permission" "inbox" {
  count         = var.inbox_path == "" ? 0 : 1
  function_name = aws_lambda_function.rotator.function_name
  qualifier     = aws_lambda_alias.live.name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.inbox[0].arn
}

# Arrivals that could not be delivered for a day. They name a parameter, and hold no token.
resource "aws_sqs_queue" "inbox_undelivered" {
  count                     = var.inbox_path == "" ? 0 : 1
  name                      = "${var.name}-inbox-undelivered"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TakeFromTheRule"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = "${local.queues}-inbox-undelivered"
      Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.inbox[0].arn } }
    }]
  })
}

# The sweep, each minute. It comes again anyway, so a late or failed one is dropped instead of repeated; its own alias, because
# rotations started by events keep Lambda's retries.
resource "aws_lambda_function_event_invoke_config" "sweep" {
  function_name                = aws_lambda_function.rotator.function_name
  qualifier                    = aws_lambda_alias.sweep.name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60
}

resource "aws_cloudwatch_event_rule" "sweep" {
  name_prefix         = "${var.name}-sweep-"
  description         = "Carries on every rotation that owes a step, and ends what is due."
  schedule_expression = "rate(1 minute)"
  # The first event fires within the minute: the alias must not retry by then.
  depends_on = [aws_lambda_function_event_invoke_config.sweep]
}

resource "aws_cloudwatch_event_target" "sweep" {
  rule      = aws_cloudwatch_event_rule.sweep.name
  target_id = "rotator"
  arn       = aws_lambda_alias.sweep.arn
  input     = "{\"action\": \"sweep\"}"
  retry_policy {
    maximum_event_age_in_seconds = 60
    maximum_retry_attempts       = 0
  }
}

resource "aws_lambda_permission" "sweep" {
  function_name = aws_lambda_function.rotator.function_name
  qualifier     = aws_lambda_alias.sweep.name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.sweep.arn
}

# Rotations started by events. Lambda tries each again after one minute and after two, and for six hours where it has no room for
# it; what fails for good is kept, with the error. For the alias, and for invocations that name none.
resource "aws_lambda_function_event_invoke_config" "events" {
  function_name                = aws_lambda_function.rotator.function_name
  qualifier                    = aws_lambda_alias.live.name
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 21600
  destination_config {
    on_failure {
      destination = aws_sqs_queue.failed_events.arn
    }
  }
}

resource "aws_lambda_function_event_invoke_config" "unqualified" {
  function_name                = aws_lambda_function.rotator.function_name
  qualifier                    = "$LATEST"
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 21600
  destination_config {
    on_failure {
      destination = aws_sqs_queue.failed_events.arn
    }
  }
}

resource "aws_sqs_queue" "failed_events" {
  name                      = "${var.name}-failed-events"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "SentForTheFunctionOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:SendMessage"
      Resource  = "${local.queues}-failed-events"
      Condition = { ArnNotEquals = { "aws:PrincipalArn" = aws_iam_role.rotator.arn } }
    }]
  })
}

# One scheduled rotation, as an example for more: by a rule, or by EventBridge Scheduler. The key is the same when the event is
# delivered twice, so it mints once, and another one for each rule, schedule and time.
locals {
  has_rotation_rule     = var.scheduled_token != "" && var.scheduled_by == "rule"
  has_rotation_schedule = var.scheduled_token != "" && var.scheduled_by == "scheduler"
}

resource "aws_cloudwatch_event_rule" "rotation" {
  count               = local.has_rotation_rule ? 1 : 0
  name_prefix         = "${var.name}-rotation-"
  description         = "Rotates ${var.scheduled_token}."
  schedule_expression = var.schedule_expression
  lifecycle {
    precondition {
      condition     = var.schedule_timezone == "UTC" && var.schedule_window == 0
      error_message = "A rule knows UTC only, and no window: leave both at their defaults, or set scheduled_by to scheduler."
    }
  }
}

resource "aws_cloudwatch_event_target" "rotation" {
  count     = local.has_rotation_rule ? 1 : 0
  rule      = aws_cloudwatch_event_rule.rotation[0].name
  target_id = "rotator"
  arn       = aws_lambda_alias.live.arn
  input_transformer {
    input_paths    = { time = "$.time" }
    input_template = "{\"action\": \"rotate\", \"token\": \"${var.scheduled_token}\", \"key\": \"<aws.events.rule-arn> <time>\"}"
  }
  retry_policy {
    maximum_event_age_in_seconds = 21600
    maximum_retry_attempts       = 185
  }
  dead_letter_config {
    arn = aws_sqs_queue.undelivered_events[0].arn
  }
}

resource "aws_lambda_permission" "rotation" {
  count         = local.has_rotation_rule ? 1 : 0
  function_name = aws_lambda_function.rotator.function_name
  qualifier     = aws_lambda_alias.live.name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.rotation[0].arn
}

resource "aws_scheduler_schedule" "rotation" {
  count                        = local.has_rotation_schedule ? 1 : 0
  name_prefix                  = "${var.name}-rotation-"
  description                  = "Rotates ${var.scheduled_token}."
  schedule_expression          = var.schedule_expression
  schedule_expression_timezone = var.schedule_timezone
  flexible_time_window {
    mode                      = var.schedule_window > 0 ? "FLEXIBLE" : "OFF"
    maximum_window_in_minutes = var.schedule_window > 0 ? var.schedule_window : null
  }
  target {
    arn      = aws_lambda_alias.live.arn
    role_arn = aws_iam_role.scheduler[0].arn
    input    = "{\"action\": \"rotate\", \"token\": \"${var.scheduled_token}\", \"key\": \"<aws.scheduler.schedule-arn> <aws.scheduler.scheduled-time>\"}"
    retry_policy {
      maximum_event_age_in_seconds = 21600
      maximum_retry_attempts       = 185
    }
    dead_letter_config {
      arn = aws_sqs_queue.undelivered_events[0].arn
    }
  }
}

resource "aws_iam_role" "scheduler" {
  count       = local.has_rotation_schedule ? 1 : 0
  name_prefix = "${var.name}-scheduler-"
  description = "Lets EventBridge Scheduler invoke changeover, and keep the events that it cannot deliver."
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      # Without it another account's schedule could name this role.
      Condition = {
        StringEquals = {
          "aws:SourceAccount" = local.account
          "aws:SourceArn"     = "arn:${local.partition}:scheduler:${local.region}:${local.account}:schedule-group/default"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "scheduler" {
  count = local.has_rotation_schedule ? 1 : 0
  name  = "rotate"
  role  = aws_iam_role.scheduler[0].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Rotate"
        Effect   = "Allow"
        Action   = "lambda:InvokeFunction"
        Resource = aws_lambda_alias.live.arn
      },
      {
        Sid      = "KeepUndeliveredEvents"
        Effect   = "Allow"
        Action   = "sqs:SendMessage"
        Resource = aws_sqs_queue.undelivered_events[0].arn
      },
    ]
  })
}

# Events that never reached Lambda: a permission is missing, or the function is gone.
resource "aws_sqs_queue" "undelivered_events" {
  count                     = var.scheduled_token == "" ? 0 : 1
  name                      = "${var.name}-undelivered-events"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for statement in [
      !local.has_rotation_rule ? null : {
        Sid       = "SentForTheRule"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = "${local.queues}-undelivered-events"
        Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.rotation[0].arn } }
      },
      !local.has_rotation_rule ? null : {
        Sid       = "SentForTheRuleOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:SendMessage"
        Resource  = "${local.queues}-undelivered-events"
        Condition = { Bool = { "aws:PrincipalIsAWSService" = "false" } }
      },
      !local.has_rotation_schedule ? null : {
        Sid       = "SentForTheScheduleOnly"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:SendMessage"
        Resource  = "${local.queues}-undelivered-events"
        Condition = { ArnNotEquals = { "aws:PrincipalArn" = aws_iam_role.scheduler[0].arn } }
      },
    ] : statement if statement != null]
  })
}
