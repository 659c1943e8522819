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
  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "It is arm64 or x86_64."
  }
}

variable "scope" {
  description = "Name in the encryption context of every sealed token. Keep it when the table is restored under another name."
  type        = string
  default     = "changeover"
  validation {
    condition     = can(regex("^[a-zA-Z0-9._-]{1,128}$", var.scope))
    error_message = "It is 1 to 128 letters, digits, dots, underscores and hyphens."
  }
}

variable "specs" {
  description = "SSM path of the specs. A principal that can write here has authority over the tokens."
  type        = string
  default     = "/changeover/tokens"
  validation {
    condition     = can(regex("^(/[a-zA-Z0-9._-]+)+$", var.specs))
    error_message = "It is a path of Parameter Store that begins with a slash and ends with none."
  }
}

variable "clusters" {
  description = "SSM path of the named clusters. A principal that can write here decides which clusters the function connects to."
  type        = string
  default     = "/changeover/clusters"
  validation {
    condition     = can(regex("^(/[a-zA-Z0-9._-]+)+$", var.clusters))
    error_message = "It is a path of Parameter Store that begins with a slash and ends with none."
  }
}

variable "cluster_name" {
  description = "EKS clusters of this name, in this account and any region; * stands for any part. Empty means none."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^([a-zA-Z0-9*][a-zA-Z0-9_*-]{0,99})?$", var.cluster_name))
    error_message = "It is the name of an EKS cluster, in which * stands for any part."
  }
}

variable "cluster_roles" {
  description = "ARNs of the roles that descriptions of clusters name."
  type        = list(string)
  default     = []
}

variable "publication_path" {
  description = "SSM path under which tokens are published. The function can write no parameter outside it."
  type        = string
  validation {
    condition     = can(regex("^(/[a-zA-Z0-9._-]+)+$", var.publication_path))
    error_message = "It is a path of Parameter Store that begins with a slash and ends with none."
  }
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
  validation {
    condition     = can(regex("^((/[a-zA-Z0-9._-]+)+)?$", var.inbox_path))
    error_message = "It is a path of Parameter Store that begins with a slash and ends with none."
  }
}

variable "scheduled_token" {
  description = "Token to rotate by the schedule. Empty means no schedule."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^[a-z0-9-]{0,63}$", var.scheduled_token))
    error_message = "It is the name of a token: small letters, digits and hyphens."
  }
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
  validation {
    condition     = contains(["rule", "scheduler"], var.scheduled_by)
    error_message = "It is rule or scheduler."
  }
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
  validation {
    condition     = var.schedule_window >= 0 && var.schedule_window <= 1440
    error_message = "It is 0 to 1440 minutes."
  }
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
  validation {
    condition     = contains(["Active", "PassThrough"], var.tracing)
    error_message = "It is Active or PassThrough."
  }
}

variable "reserved_concurrency" {
  description = "Invocations that are reserved for the function, and the most that run at once. Null means none are reserved."
  type        = number
  default     = null
  validation {
    condition     = var.reserved_concurrency == null || can(regex("^[1-9][0-9]{0,3}$", var.reserved_concurrency))
    error_message = "It is 1 to 9999, or null."
  }
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
  description = "EventBridge bus of this account and region that events about tokens are sent to, by name. Empty means that no events are sent."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^[a-zA-Z0-9._/-]{0,256}$", var.event_bus))
    error_message = "It is the name of a bus, not its ARN."
  }
}

variable "alarm_topic" {
  description = "ARN of the SNS topic that alarms are sent to. Empty means that no alarms are sent."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[a-zA-Z0-9_-]+)?$", var.alarm_topic))
    error_message = "It is the ARN of an SNS topic."
  }
}
