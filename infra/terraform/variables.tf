# Named as the parameters of template.yaml, which describes them in full.

variable "name" {
  description = "Name of the stack: the function is called after it."
  type        = string
  default     = "changeover"
}

variable "package" {
  description = "Path of the function's zip file: `make build`, then the directory .aws-sam/build/Rotator as a zip."
  type        = string
}

variable "live_version" {
  description = "Version of the function that the alias live is held at. Empty means the newest."
  type        = string
  default     = ""
}

variable "architecture" {
  description = "Processor the function was built for: arm64 or x86_64."
  type        = string
  default     = "arm64"
}

variable "scope" {
  description = "Name in the encryption context of every sealed token. Keep it when the table is restored under another name."
  type        = string
  default     = "changeover"
}

variable "specs" {
  description = "SSM path of the specs. Whoever may write here has authority over the tokens."
  type        = string
  default     = "/changeover/tokens"
}

variable "clusters" {
  description = "SSM path of the named clusters. Whoever may write here says where the function goes."
  type        = string
  default     = "/changeover/clusters"
}

variable "cluster_name" {
  description = "EKS clusters of this name, in this account and any region; * stands for any part. Empty means none."
  type        = string
  default     = ""
}

variable "cluster_roles" {
  description = "ARNs of the roles that descriptions of clusters name."
  type        = list(string)
  default     = []
}

variable "publication_path" {
  description = "SSM path under which tokens are published. The function can write no parameter outside it."
  type        = string
}

variable "published_tables" {
  description = "ARNs of the DynamoDB tables that tokens are published to."
  type        = list(string)
  default     = []
}

variable "published_items" {
  description = "Partition keys of the items in published_tables; * stands for any part. Empty means any item."
  type        = list(string)
  default     = []
}

variable "published_key_attributes" {
  description = "Names of the key attributes of published_tables. Empty means that the function may touch any attribute."
  type        = list(string)
  default     = []
}

variable "publication_keys" {
  description = "ARNs of the KMS keys, besides this module's own, under which tokens are encrypted."
  type        = list(string)
  default     = []
}

variable "inbox_path" {
  description = "SSM path under which tokens that are issued elsewhere arrive. Empty means none."
  type        = string
  default     = ""
}

variable "scheduled_token" {
  description = "Token to rotate by the schedule. Empty means no schedule."
  type        = string
  default     = ""
}

variable "schedule_expression" {
  description = "When to rotate scheduled_token."
  type        = string
  default     = "cron(0 4 1 * ? *)"
}

variable "scheduled_by" {
  description = "What rotates scheduled_token: scheduler, or rule, which knows UTC only."
  type        = string
  default     = "scheduler"
}

variable "schedule_timezone" {
  description = "Time zone that schedule_expression is meant in, such as Europe/Berlin. For EventBridge Scheduler."
  type        = string
  default     = "UTC"
}

variable "schedule_window" {
  description = "How many minutes later than scheduled a rotation may begin. For EventBridge Scheduler."
  type        = number
  default     = 0
}

variable "log" {
  description = "Filter of the function's log, in the form that tracing-subscriber's EnvFilter takes."
  type        = string
  default     = "info"
}

variable "tracing" {
  description = "Active samples invocations into X-Ray traces; else PassThrough."
  type        = string
  default     = "PassThrough"
}

variable "reserved_concurrency" {
  description = "Invocations that are reserved for the function, and the most that run at once. Null means none are reserved."
  type        = number
  default     = null
}

variable "subnet_ids" {
  description = "Subnets the function runs in, with a way to AWS and to the clusters. Empty means no VPC."
  type        = list(string)
  default     = []
}

variable "security_group_ids" {
  description = "Security groups of the function in these subnets."
  type        = list(string)
  default     = []
}

variable "event_bus" {
  description = "EventBridge bus of this account and region that is told what becomes of tokens, by name. Empty means nobody is told."
  type        = string
  default     = ""
}

variable "alarm_topic" {
  description = "ARN of the SNS topic that alarms are told to. Empty means nobody is told."
  type        = string
  default     = ""
}
