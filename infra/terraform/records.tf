# Records, idempotency keys and audit. Losing it loses the sealed tokens of rotations under way: `terraform destroy` ends here,
# until an operator removes the protection on purpose.
resource "aws_dynamodb_table" "records" {
  name                        = "${var.name}-records"
  billing_mode                = "PAY_PER_REQUEST"
  deletion_protection_enabled = true
  hash_key                    = "pk"
  range_key                   = "sk"

  attribute {
    name = "pk"
    type = "S"
  }
  attribute {
    name = "sk"
    type = "S"
  }
  attribute {
    name = "owed"
    type = "S"
  }
  attribute {
    name = "due_at"
    type = "S"
  }

  # Sparse: an item that owes nothing carries neither attribute. Keys only: the sweep rereads consistently anyway.
  global_secondary_index {
    name            = "owed"
    hash_key        = "owed"
    range_key       = "due_at"
    projection_type = "KEYS_ONLY"
  }

  point_in_time_recovery {
    enabled = true
  }

  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  # Encrypted at rest with the publication key: the sealing key is used for sealed values and nothing else.
  server_side_encryption {
    enabled     = true
    kms_key_arn = aws_kms_key.publication.arn
  }

  lifecycle {
    prevent_destroy = true
  }
}

locals {
  # No Encrypt, no Decrypt and no CreateGrant: administrators can look after a key and not use it.
  administer = {
    Sid       = "Administer"
    Effect    = "Allow"
    Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
    Action = [
      "kms:CancelKeyDeletion",
      "kms:CreateAlias",
      "kms:DeleteAlias",
      "kms:Describe*",
      "kms:Disable*",
      "kms:Enable*",
      "kms:Get*",
      "kms:List*",
      "kms:PutKeyPolicy",
      "kms:RevokeGrant",
      "kms:ScheduleKeyDeletion",
      "kms:TagResource",
      "kms:UntagResource",
      "kms:Update*",
    ]
    # In a key policy "*" is the key itself.
    Resource = "*"
  }
}

# Seals token values in the record. No policy of the account can open them: only the function's role, under its scope.
resource "aws_kms_key" "sealing" {
  description         = "changeover seals token values in its records with this key, and nothing else."
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      local.administer,
      {
        Sid       = "Seal"
        Effect    = "Allow"
        Principal = { AWS = aws_iam_role.rotator.arn }
        Action    = ["kms:Encrypt", "kms:Decrypt"]
        # In a key policy "*" is the key itself.
        Resource  = "*"
        Condition = { StringEquals = { "kms:EncryptionContext:changeover:scope" = var.scope } }
      },
    ]
  })

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "sealing" {
  name          = "alias/${var.name}-sealing"
  target_key_id = aws_kms_key.sealing.key_id
}

# Encrypts published parameters whose spec names no key. Readers decrypt with it, where their own policies allow.
resource "aws_kms_key" "publication" {
  description         = "Encrypts the parameters that changeover publishes tokens in, and its table at rest."
  enable_key_rotation = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      local.administer,
      # The policies of the account's roles say who reads and writes which parameter. Never outside Parameter Store.
      {
        Sid       = "ReadAndWriteParameters"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey"]
        # In a key policy "*" is the key itself.
        Resource  = "*"
        Condition = { StringEquals = { "kms:ViaService" = "ssm.${local.region}.amazonaws.com" } }
      },
      # What DynamoDB requires of a principal that creates or uses a table under a customer managed key.
      {
        Sid       = "EncryptTheTable"
        Effect    = "Allow"
        Principal = { AWS = "arn:${local.partition}:iam::${local.account}:root" }
        Action    = ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]
        # In a key policy "*" is the key itself.
        Resource  = "*"
        Condition = { StringEquals = { "kms:ViaService" = "dynamodb.${local.region}.amazonaws.com" } }
      },
    ]
  })

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_kms_alias" "publication" {
  name          = "alias/${var.name}-publication"
  target_key_id = aws_kms_key.publication.key_id
}
