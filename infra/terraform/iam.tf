# The role. What each right is for, and what its holder could do with it, is in infra/threat-model.md.
resource "aws_iam_role" "rotator" {
  name_prefix = "${var.name}-rotator-"
  description = "What changeover may do. An EKS access entry maps it to the group changeover."
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "lambda.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "rotator" {
  name = "rotate"
  role = aws_iam_role.rotator.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for statement in local.rotator : statement if statement != null]
  })
}

locals {
  via_parameter_store = { "kms:ViaService" = "ssm.${local.region}.amazonaws.com" }
  interfaces = [
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
  ]
  published_items = {
    for operator in ["ForAllValues:StringLike"] : operator => { "dynamodb:LeadingKeys" = var.published_items }
    if length(var.published_items) > 0
  }
  published_attributes = {
    for operator in ["ForAllValues:StringEquals"] : operator => {
      "dynamodb:Attributes" = concat(
        [
          "token", "token_version", "token_life", "token_revision",
          "accepted", "accepted_life", "accepted_revision", "changeover_token",
        ],
        var.published_key_attributes,
      )
    }
    if length(var.published_key_attributes) > 0
  }

  # What is null is not granted.
  rotator = [
    {
      Sid      = "WriteTheLog"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.rotator.arn}:*"
    },
    # Condition checks and puts are what a transaction is authorized by.
    {
      Sid      = "KeepRecords"
      Effect   = "Allow"
      Action   = ["dynamodb:ConditionCheckItem", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"]
      Resource = aws_dynamodb_table.records.arn
    },
    {
      Sid      = "FindWhatIsOwed"
      Effect   = "Allow"
      Action   = "dynamodb:Query"
      Resource = "${aws_dynamodb_table.records.arn}/index/owed"
    },
    # A value that is imported, or was written by hand, is looked for in its token's audit: what has ended does not come back.
    {
      Sid      = "FindEndedVersions"
      Effect   = "Allow"
      Action   = "dynamodb:Query"
      Resource = aws_dynamodb_table.records.arn
    },
    {
      Sid       = "UseTheEncryptedTable"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
      Resource  = aws_kms_key.publication.arn
      Condition = { StringEquals = { "kms:ViaService" = "dynamodb.${local.region}.amazonaws.com" } }
    },
    # Sealing is allowed by the sealing key's own policy, which names this role.
    {
      Sid      = "ReadSpecs"
      Effect   = "Allow"
      Action   = "ssm:GetParameter"
      Resource = "${local.parameters}${var.specs}/*"
    },
    # The action is about the path itself.
    {
      Sid      = "ListSpecs"
      Effect   = "Allow"
      Action   = "ssm:GetParametersByPath"
      Resource = "${local.parameters}${var.specs}"
    },
    {
      Sid      = "ReadClusters"
      Effect   = "Allow"
      Action   = "ssm:GetParameter"
      Resource = "${local.parameters}${var.clusters}/*"
    },
    # Their tokens lie below them. Under the account's own key (aws/ssm) they need no grant.
    {
      Sid      = "ReadTokensOfClusters"
      Effect   = "Allow"
      Action   = "kms:Decrypt"
      Resource = aws_kms_key.publication.arn
      Condition = {
        StringEquals = local.via_parameter_store
        StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.clusters}/*" }
      }
    },
    {
      Sid      = "PublishToParameters"
      Effect   = "Allow"
      Action   = ["ssm:GetParameter", "ssm:LabelParameterVersion", "ssm:PutParameter"]
      Resource = "${local.parameters}${var.publication_path}/*"
    },
    # Returns the key that an existing parameter is encrypted with, so that it is kept; never a value.
    {
      Sid    = "FindThePublicationsKey"
      Effect = "Allow"
      Action = "ssm:DescribeParameters"
      # The action knows no resources.
      Resource = "*"
    },
    {
      Sid      = "EncryptPublications"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"]
      Resource = aws_kms_key.publication.arn
      Condition = {
        StringEquals = local.via_parameter_store
        StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.publication_path}/*" }
      }
    },
    length(var.publication_keys) == 0 ? null : {
      Sid      = "EncryptPublicationsUnderOtherKeys"
      Effect   = "Allow"
      Action   = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"]
      Resource = var.publication_keys
      Condition = {
        StringEquals = local.via_parameter_store
        StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.publication_path}/*" }
      }
    },
    # No answer holds an attribute that was not asked for by name.
    length(var.published_tables) == 0 ? null : {
      Sid      = "ReadPublishedItems"
      Effect   = "Allow"
      Action   = "dynamodb:GetItem"
      Resource = var.published_tables
      Condition = merge(
        { StringEqualsIfExists = { "dynamodb:Select" = "SPECIFIC_ATTRIBUTES" } },
        local.published_items,
        local.published_attributes,
      )
    },
    length(var.published_tables) == 0 ? null : {
      Sid      = "PublishToTables"
      Effect   = "Allow"
      Action   = "dynamodb:UpdateItem"
      Resource = var.published_tables
      Condition = merge(
        { StringEqualsIfExists = { "dynamodb:ReturnValues" = "NONE" } },
        local.published_items,
        local.published_attributes,
      )
    },
    var.inbox_path == "" ? null : {
      Sid      = "ReadTheInbox"
      Effect   = "Allow"
      Action   = "ssm:GetParameter"
      Resource = "${local.parameters}${var.inbox_path}/*"
    },
    var.inbox_path == "" ? null : {
      Sid      = "DecryptTheInbox"
      Effect   = "Allow"
      Action   = "kms:Decrypt"
      Resource = aws_kms_key.publication.arn
      Condition = {
        StringEquals = local.via_parameter_store
        StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.inbox_path}/*" }
      }
    },
    var.inbox_path == "" || length(var.publication_keys) == 0 ? null : {
      Sid      = "DecryptTheInboxUnderOtherKeys"
      Effect   = "Allow"
      Action   = "kms:Decrypt"
      Resource = var.publication_keys
      Condition = {
        StringEquals = local.via_parameter_store
        StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.inbox_path}/*" }
      }
    },
    # Reports the result of a rotation to its pipeline action. The function knows the ids only of jobs that were sent to it.
    {
      Sid    = "AnswerPipelines"
      Effect = "Allow"
      Action = ["codepipeline:PutJobFailureResult", "codepipeline:PutJobSuccessResult"]
      # The actions know no resources.
      Resource = "*"
    },
    # A sweep hands on tokens to invocations of their own. The function is made after its policy: it is named, not referred to.
    {
      Sid      = "HandOnSweeps"
      Effect   = "Allow"
      Action   = "lambda:InvokeFunction"
      Resource = [local.function, "${local.function}:*"]
    },
    # Lambda does so in the function's name. By its name: a queue takes half a minute to make, and the function waits for this.
    {
      Sid      = "KeepFailedEvents"
      Effect   = "Allow"
      Action   = "sqs:SendMessage"
      Resource = "${local.queues}-failed-events"
    },
    var.event_bus == "" ? null : {
      Sid      = "TellSubscribers"
      Effect   = "Allow"
      Action   = "events:PutEvents"
      Resource = "arn:${local.partition}:events:${local.region}:${local.account}:event-bus/${var.event_bus}"
    },
    # What the function may do inside the cluster is said by infra/eks-rbac.yaml.
    var.cluster_name == "" ? null : {
      Sid      = "FindTheCluster"
      Effect   = "Allow"
      Action   = "eks:DescribeCluster"
      Resource = "arn:${local.partition}:eks:*:${local.account}:cluster/${var.cluster_name}"
    },
    length(var.cluster_roles) == 0 ? null : {
      Sid      = "ReachClustersThroughRoles"
      Effect   = "Allow"
      Action   = "sts:AssumeRole"
      Resource = var.cluster_roles
    },
    var.tracing != "Active" ? null : {
      Sid    = "SendTraces"
      Effect = "Allow"
      Action = ["xray:PutTelemetryRecords", "xray:PutTraceSegments"]
      # The actions know no resources.
      Resource = "*"
    },
    # Lambda makes the network interfaces with the function's role, and the function itself may not.
    length(var.subnet_ids) == 0 ? null : {
      Sid    = "AttachToTheVpc"
      Effect = "Allow"
      Action = local.interfaces
      # The interfaces do not exist yet, and what describes them knows no resources.
      Resource = "*"
    },
    length(var.subnet_ids) == 0 ? null : {
      Sid    = "LeaveTheVpcToLambda"
      Effect = "Deny"
      Action = local.interfaces
      # A denial is as wide as it can be.
      Resource  = "*"
      Condition = { ArnEquals = { "lambda:SourceFunctionArn" = local.function } }
    },
  ]
}

# Rights for people and pipelines: attach each to the roles of those who are meant.
resource "aws_iam_policy" "write_specs" {
  name_prefix = "${var.name}-write-specs-"
  description = "Writes specs of tokens and descriptions of clusters. For the role that deploys alone."
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "WriteSpecsAndClusters"
        Effect = "Allow"
        Action = [
          "ssm:AddTagsToResource",
          "ssm:DeleteParameter",
          "ssm:GetParameter",
          "ssm:GetParameters",
          "ssm:ListTagsForResource",
          "ssm:PutParameter",
          "ssm:RemoveTagsFromResource",
        ]
        Resource = ["${local.parameters}${var.specs}/*", "${local.parameters}${var.clusters}/*"]
      },
      # The tokens that clusters know the function by.
      {
        Sid      = "EncryptTokensOfClusters"
        Effect   = "Allow"
        Action   = ["kms:Encrypt", "kms:GenerateDataKey"]
        Resource = aws_kms_key.publication.arn
        Condition = {
          StringEquals = local.via_parameter_store
          StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.clusters}/*" }
        }
      },
    ]
  })
}

resource "aws_iam_policy" "rotate" {
  name_prefix = "${var.name}-rotate-"
  description = "Asks changeover for everything that an event can say. For deploy steps and operators."
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "Invoke"
      Effect   = "Allow"
      Action   = "lambda:InvokeFunction"
      Resource = [aws_lambda_alias.live.arn, aws_lambda_function.rotator.arn]
    }]
  })
}

resource "aws_iam_policy" "observe" {
  name_prefix = "${var.name}-observe-"
  description = "Asks changeover for status and preflight, and sees its log, metrics and alarms. Changes nothing."
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "AskForStatus"
        Effect   = "Allow"
        Action   = "lambda:InvokeFunction"
        Resource = aws_lambda_alias.status.arn
      },
      {
        Sid      = "ReadTheLog"
        Effect   = "Allow"
        Action   = ["logs:FilterLogEvents", "logs:GetLogEvents"]
        Resource = "${aws_cloudwatch_log_group.rotator.arn}:*"
      },
      {
        Sid    = "SeeMetricsAndAlarms"
        Effect = "Allow"
        Action = [
          "cloudwatch:DescribeAlarms",
          "cloudwatch:GetDashboard",
          "cloudwatch:GetMetricData",
          "cloudwatch:ListMetrics",
        ]
        # Metrics know no resources, and a dashboard asks for many.
        Resource = "*"
      },
    ]
  })
}

resource "aws_iam_policy" "issue" {
  count       = var.inbox_path == "" ? 0 : 1
  name_prefix = "${var.name}-issue-"
  description = "Puts tokens that are issued elsewhere into changeover's inbox. For the issuer alone."
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "PutIntoTheInbox"
        Effect   = "Allow"
        Action   = "ssm:PutParameter"
        Resource = "${local.parameters}${var.inbox_path}/*"
      },
      {
        Sid      = "EncryptForTheInbox"
        Effect   = "Allow"
        Action   = ["kms:Encrypt", "kms:GenerateDataKey"]
        Resource = aws_kms_key.publication.arn
        Condition = {
          StringEquals = local.via_parameter_store
          StringLike   = { "kms:EncryptionContext:PARAMETER_ARN" = "${local.parameters}${var.inbox_path}/*" }
        }
      },
    ]
  })
}
