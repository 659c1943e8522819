//! The rules of AWS, Kubernetes and humantime for single words of a spec.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Reads a duration in humantime's format, such as `"90s"` or `"1h 30m"`, within these bounds.
///
/// # Errors
/// The fault, and what to write instead, as the rest of a sentence.
pub fn duration(text: &str, bounds: RangeInclusive<Duration>) -> Result<Duration, String> {
    let (least, most) = bounds.into_inner();
    match humantime::parse_duration(text) {
        Err(_) => Err("is not a duration; write one such as \"90s\", \"15m\" or \"24h\"".into()),
        Ok(duration) if duration < least => {
            Err(format!("is too short; write \"{0}\" or more", humantime::format_duration(least)))
        }
        Ok(duration) if duration > most => {
            Err(format!("is too long; write \"{0}\" or less", humantime::format_duration(most)))
        }
        Ok(duration) => Ok(duration),
    }
}

/// The longest time that a spec or a request can name: one year of humantime's. It is far from the point
/// at which adding it to a time overflows.
pub const LONGEST_DURATION: Duration = Duration::from_secs(31_557_600);

/// True for the name of a table (BOTO dynamodb 2012-08-10, `TableName`).
pub fn is_table(name: &str) -> bool {
    (3..=255).contains(&name.len()) && name.chars().all(is_name_character)
}

pub const TABLE_RULE: &str = "the name of a table: 3 to 255 of a-z, A-Z, 0-9, '_', '.' and '-'";

/// True for the characters of a parameter's level, and of a table's name.
pub fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// True for a KMS key in the form that `PutParameter` accepts (BOTO ssm 2014-11-06, `ParameterKeyId`).
pub fn is_kms_key(key: &str) -> bool {
    (1..=256).contains(&key.len())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '_' | '-'))
}

/// True for the name of an EKS cluster (BOTO eks 2017-11-01, `ClusterName`), also used for the last level
/// of a cluster's parameter.
pub fn is_cluster(name: &str) -> bool {
    (1..=100).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

pub(super) const CLUSTER_RULE: &str =
    "the name of a cluster: 1 to 100 of a-z, A-Z, 0-9, '_' and '-'";

/// True for the name of an AWS region, as it becomes a part of a host's name.
pub(super) fn is_region(name: &str) -> bool {
    is_label(name)
}

pub(super) const REGION_RULE: &str = "the name of a region, such as \"eu-west-1\"";

/// True for the ARN of an IAM role (BOTO sts 2011-06-15, `arnType`; its resource begins with `role/`).
pub(super) fn is_role(arn: &str) -> bool {
    let mut parts = arn.splitn(6, ':');
    let mut next = || parts.next().unwrap_or_default();
    let (begins, partition, service) = (next() == "arn", next(), next());
    let (region, account, resource) = (next(), next(), next());
    let is_name = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/-".contains(c);
    begins
        && partition.starts_with("aws")
        && (service, region) == ("iam", "")
        && account.len() == 12
        && account.chars().all(|c| c.is_ascii_digit())
        && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty())
        && resource.chars().all(is_name)
        && arn.len() <= 2048
}

pub(super) const ROLE_RULE: &str =
    "the ARN of a role, such as \"arn:aws:iam::123456789012:role/changeover\"";

/// True for a label of RFC 1123, the form of a Kubernetes namespace (apimachinery `IsDNS1123Label`).
pub(super) fn is_label(name: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.starts_with(is_edge)
        && name.ends_with(is_edge)
        && name.chars().all(|c| is_edge(c) || c == '-')
}

pub(super) const LABEL_RULE: &str = "the name of a namespace: 1 to 63 of a-z, 0-9 and '-'";

/// True for a subdomain of RFC 1123, the form of most Kubernetes names (apimachinery
/// `IsDNS1123Subdomain`).
pub(super) fn is_subdomain(name: &str) -> bool {
    let is_edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_edge)
            && part.ends_with(is_edge)
            && part.chars().all(|c| is_edge(c) || c == '-')
    };
    (1..=253).contains(&name.len()) && name.split('.').all(is_part)
}

pub(super) const SUBDOMAIN_RULE: &str = "the object's name: 1 to 253 of a-z, 0-9, '-' and '.'";

/// True for a key of a Secret (apimachinery `IsConfigMapKey`).
pub(super) fn is_secret_key(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.chars().all(is_name_character)
}

pub(super) const SECRET_KEY_RULE: &str =
    "a key of the Secret: 1 to 253 of a-z, A-Z, 0-9, '_', '.' and '-'";
