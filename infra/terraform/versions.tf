# The same stack as template.yaml, for Terraform or OpenTofu; tests/it/terraform.rs checks that it is the same.
# Use it as a module. What only CodeDeploy does is not here: the alias live moves at once, and back by var.live_version.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.50, < 7.0"
    }
  }
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
# For the region, which aws_region returns under one name before version 6 of the provider and under another since.
data "aws_service" "lambda" {
  service_id = "lambda"
}

locals {
  account    = data.aws_caller_identity.this.account_id
  partition  = data.aws_partition.this.partition
  region     = data.aws_service.lambda.region
  parameters = "arn:${local.partition}:ssm:${local.region}:${local.account}:parameter"
  function   = "arn:${local.partition}:lambda:${local.region}:${local.account}:function:${var.name}-rotator"
  # A queue is made with its policy, which has to name it.
  queues = "arn:${local.partition}:sqs:${local.region}:${local.account}:${var.name}"
}
