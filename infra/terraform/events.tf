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
  name_prefix               = "${var.name}-inbox-undelivered-"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

resource "aws_sqs_queue_policy" "inbox_undelivered" {
  count     = var.inbox_path == "" ? 0 : 1
  queue_url = aws_sqs_queue.inbox_undelivered[0].url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TakeFromTheRule"
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.inbox_undelivered[0].arn
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
}

resource "aws_lambda_permission" "sweep" {
  function_name = aws_lambda_function.rotator.function_name
  qualifier     = aws_lambda_alias.sweep.name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.sweep.arn
}

# One scheduled rotation, as an example for more. The key is the same when the event is delivered twice, so it mints once.
resource "aws_cloudwatch_event_rule" "schedule" {
  count               = var.scheduled_token == "" ? 0 : 1
  name_prefix         = "${var.name}-schedule-"
  description         = "Rotates ${var.scheduled_token}."
  schedule_expression = var.schedule_expression
}

resource "aws_cloudwatch_event_target" "schedule" {
  count     = var.scheduled_token == "" ? 0 : 1
  rule      = aws_cloudwatch_event_rule.schedule[0].name
  target_id = "rotator"
  arn       = aws_lambda_alias.live.arn
  input_transformer {
    input_paths    = { time = "$.time" }
    input_template = "{\"action\": \"rotate\", \"token\": \"${var.scheduled_token}\", \"key\": \"<aws.events.rule-arn> <time>\"}"
  }
}

resource "aws_lambda_permission" "schedule" {
  count         = var.scheduled_token == "" ? 0 : 1
  function_name = aws_lambda_function.rotator.function_name
  qualifier     = aws_lambda_alias.live.name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.schedule[0].arn
}
