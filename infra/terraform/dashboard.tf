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
  graphs = [
    {
      title   = "Outcomes"
      stacked = true
      metrics = [
        [{ expression = "SEARCH('{changeover,Outcome} MetricName=\"Outcomes\"', 'Sum', 300)", id = "outcomes" }],
      ]
    },
    {
      title   = "Errors by type"
      stacked = true
      metrics = [
        [{ expression = "SEARCH('{changeover,ErrorType} MetricName=\"Errors\"', 'Sum', 300)", id = "errors" }],
      ]
    },
    {
      title = "How long a rotation takes, and its legs"
      metrics = [
        ["changeover", "RotationDuration", { stat = "p50", label = "rotation, median" }],
        ["...", { stat = "Maximum", label = "rotation, longest" }],
        [{ expression = "SEARCH('{changeover,Leg} MetricName=\"LegDuration\"', 'Maximum', 300)", id = "legs" }],
      ]
    },
    {
      title = "Oldest current token, and the longest overdue"
      metrics = [
        ["changeover", "CurrentAge", { stat = "Maximum", label = "age (s)" }],
        ["changeover", "Overdue", { stat = "Maximum", label = "overdue (s)", yAxis = "right" }],
      ]
    },
    {
      title  = "Sweeps, and the tokens they found to owe something"
      period = 60
      metrics = [
        ["changeover", "Sweeps", { stat = "Sum" }],
        ["changeover", "DueTokens", { stat = "Maximum", yAxis = "right" }],
      ]
    },
    {
      title = "The function"
      metrics = [
        ["AWS/Lambda", "Invocations", "FunctionName", aws_lambda_function.rotator.function_name, { stat = "Sum" }],
        [".", "Errors", ".", ".", { stat = "Sum" }],
        [".", "Throttles", ".", ".", { stat = "Sum" }],
        [".", "ConcurrentExecutions", ".", ".", { stat = "Maximum" }],
        [".", "Duration", ".", ".", { stat = "Maximum", yAxis = "right" }],
      ]
    },
  ]
}
