# The function. A rotation waits for rollouts, so its timeout is Lambda's longest; what is still owed then is saved.
resource "aws_lambda_function" "rotator" {
  function_name                  = "${var.name}-rotator"
  description                    = "Rotates tokens, one step owed after the other, until the cluster proves that no service is cut off."
  filename                       = var.package
  source_code_hash               = filebase64sha256(var.package)
  handler                        = "bootstrap"
  runtime                        = "provided.al2023"
  architectures                  = [var.architecture]
  memory_size                    = 256
  timeout                        = 900
  reserved_concurrent_executions = coalesce(var.reserved_concurrency, -1)
  role                           = aws_iam_role.rotator.arn
  # What schedules, pipelines and people invoke is an alias of a version.
  publish = true

  environment {
    variables = {
      CHANGEOVER_TABLE           = aws_dynamodb_table.records.name
      CHANGEOVER_KEY             = aws_kms_key.sealing.arn
      CHANGEOVER_PUBLICATION_KEY = aws_kms_key.publication.arn
      CHANGEOVER_SCOPE           = var.scope
      CHANGEOVER_SPECS           = var.specs
      CHANGEOVER_CLUSTERS        = var.clusters
      CHANGEOVER_EVENT_BUS       = var.event_bus
      CHANGEOVER_LOG             = var.log
    }
  }

  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.rotator.name
  }

  tracing_config {
    mode = var.tracing
  }

  dynamic "vpc_config" {
    for_each = length(var.subnet_ids) > 0 ? [true] : []
    content {
      subnet_ids         = var.subnet_ids
      security_group_ids = var.security_group_ids
    }
  }

  # The role is of no use before its policy is attached.
  depends_on = [aws_iam_role_policy.rotator]
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  description      = "What schedules, pipelines and people invoke."
  function_name    = aws_lambda_function.rotator.function_name
  function_version = var.live_version != "" ? var.live_version : aws_lambda_function.rotator.version
}

resource "aws_lambda_alias" "status" {
  name             = "status"
  description      = "Answers status and preflight only."
  function_name    = aws_lambda_function.rotator.function_name
  function_version = aws_lambda_alias.live.function_version
}

resource "aws_lambda_alias" "sweep" {
  name             = "sweep"
  description      = "Takes the sweep's invocations, which are not retried."
  function_name    = aws_lambda_function.rotator.function_name
  function_version = aws_lambda_alias.live.function_version
}

# The log. What must outlive it, the audit of every version, is in the table.
resource "aws_cloudwatch_log_group" "rotator" {
  name              = "/aws/lambda/${var.name}-rotator"
  retention_in_days = 90
}
