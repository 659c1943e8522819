# What the alarms say, and why.
resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.name}-${local.region}"
  dashboard_body = jsonencode({
    widgets = concat(
      [{
        type       = "alarm", x = 0, y = 0, width = 24, height = 3
        properties = { title = "Alarms", alarms = [for alarm in aws_cloudwatch_metric_alarm.this : alarm.arn] }
      }],
      [for at, graph in local.graphs : {
        type = "metric", x = at % 2 * 12, y = 3 + floor(at / 2) * 6, width = 12, height = 6
        properties = merge(
          { title = graph.title, region = local.region, view = "timeSeries", period = lookup(graph, "period", 300) },
          { metrics = graph.metrics, stacked = lookup(graph, "stacked", false) },
        )
      }],
    )
  })
}

locals {
  # The function whose metrics the graphs show.
  shown = aws_lambda_function.rotator.function_name
  graphs = [
    {
      title   = "Outcomes"
      stacked = true
      metrics = [
        [{
          expression = "SEARCH('{changeover,FunctionName,Outcome} MetricName=\"Outcomes\" FunctionName=\"${local.shown}\"', 'Sum', 300)"
          id         = "outcomes"
        }],
      ]
    },
    {
      title   = "Errors by type"
      stacked = true
      metrics = [
        [{
          expression = "SEARCH('{changeover,FunctionName,ErrorType} MetricName=\"Errors\" FunctionName=\"${local.shown}\"', 'Sum', 300)"
          id         = "errors"
        }],
      ]
    },
    {
      title = "How long a rotation takes, and its legs"
      metrics = [
        ["changeover", "RotationDuration", "FunctionName", local.shown, { stat = "p50", label = "rotation, median" }],
        ["...", { stat = "Maximum", label = "rotation, longest" }],
        [{
          expression = "SEARCH('{changeover,FunctionName,Leg} MetricName=\"LegDuration\" FunctionName=\"${local.shown}\"', 'Maximum', 300)"
          id         = "legs"
        }],
      ]
    },
    {
      title = "Oldest current token, and the longest overdue"
      metrics = [
        ["changeover", "CurrentAge", "FunctionName", local.shown, { stat = "Maximum", label = "age (s)" }],
        [".", "Overdue", ".", ".", { stat = "Maximum", label = "overdue (s)", yAxis = "right" }],
      ]
    },
    {
      title  = "Sweeps, the tokens they found to owe something, and those that are stuck"
      period = 60
      metrics = [
        ["changeover", "Sweeps", "FunctionName", local.shown, { stat = "Sum" }],
        [".", "DueTokens", ".", ".", { stat = "Maximum", yAxis = "right" }],
        [".", "StuckTokens", ".", ".", { stat = "Maximum", yAxis = "right" }],
      ]
    },
    {
      title = "The function"
      metrics = [
        ["AWS/Lambda", "Invocations", "FunctionName", local.shown, { stat = "Sum" }],
        [".", "Errors", ".", ".", { stat = "Sum" }],
        [".", "Throttles", ".", ".", { stat = "Sum" }],
        [".", "ConcurrentExecutions", ".", ".", { stat = "Maximum" }],
        [".", "Duration", ".", ".", { stat = "Maximum", yAxis = "right" }],
      ]
    },
  ]
}
