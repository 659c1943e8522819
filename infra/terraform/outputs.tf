# Named as the outputs of template.yaml, which describes them in full.

output "function_name" {
  description = "Name to invoke the function by."
  value       = aws_lambda_function.rotator.function_name
}

output "function_arn" {
  description = "ARN of the function."
  value       = aws_lambda_function.rotator.arn
}

output "alias_arn" {
  description = "ARN of the alias live, which rules, schedules, pipelines and people invoke."
  value       = aws_lambda_alias.live.arn
}

output "status_arn" {
  description = "ARN of the alias that answers status and preflight only."
  value       = aws_lambda_alias.status.arn
}

output "role_arn" {
  description = "ARN of the function's role. Map it by an EKS access entry to the Kubernetes group changeover."
  value       = aws_iam_role.rotator.arn
}

output "table_name" {
  description = "Name of the table of records, idempotency keys and audit."
  value       = aws_dynamodb_table.records.name
}

output "sealing_key_arn" {
  description = "ARN of the key that seals token values in the records."
  value       = aws_kms_key.sealing.arn
}

output "publication_key_arn" {
  description = "ARN of the key that encrypts published parameters. Readers need kms:Decrypt on it."
  value       = aws_kms_key.publication.arn
}

output "log_group_name" {
  description = "Name of the function's log group."
  value       = aws_cloudwatch_log_group.rotator.name
}

output "write_specs_policy_arn" {
  description = "ARN of the policy that lets the deployment's role write specs and clusters. Attach it to no other."
  value       = aws_iam_policy.write_specs.arn
}

output "rotate_policy_arn" {
  description = "ARN of the policy that lets deploy steps and operators invoke the function."
  value       = aws_iam_policy.rotate.arn
}

output "observe_policy_arn" {
  description = "ARN of the policy that lets observers see the progress of rotations, and change nothing."
  value       = aws_iam_policy.observe.arn
}

output "issue_policy_arn" {
  description = "ARN of the policy that lets an issuer put tokens into the inbox."
  value       = one(aws_iam_policy.issue[*].arn)
}

output "inbox_undelivered_url" {
  description = "URL of the queue of arrivals in the inbox that could not be delivered."
  value       = one(aws_sqs_queue.inbox_undelivered[*].url)
}

output "failed_events_url" {
  description = "URL of the queue of events that the function failed on for good, each with its error."
  value       = aws_sqs_queue.failed_events.url
}

output "undelivered_events_url" {
  description = "URL of the queue of scheduled events that never reached Lambda."
  value       = one(aws_sqs_queue.undelivered_events[*].url)
}

output "dashboard_name" {
  description = "Name of the dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}
