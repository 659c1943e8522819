//! Reads of one parameter of Parameter Store: a secret from a SecureString, anything else in plain.

use aws_sdk_ssm::{
    error::ProvideErrorMetadata,
    types::{Parameter, ParameterType},
};
use changeover_core::{
    error::{Error, Kind},
    spec::ParameterName,
};
use changeover_token::Secret;
use jiff::Timestamp;

use super::{failed, incomplete};
use crate::Aws;

/// A secret as a parameter holds it.
pub struct Stored {
    /// Decrypted, and otherwise unchanged.
    pub value: Secret,
    /// Version of the parameter.
    pub version: u64,
    /// Time at which that version was written.
    pub written_at: Option<Timestamp>,
    /// Type of the parameter. See [`in_plain`].
    pub kind: Option<ParameterType>,
}

/// Reads a secret; `None` if there is no such parameter. The type of the parameter is not checked here: the
/// caller checks it, and knows the fix.
pub async fn secret(
    aws: &Aws,
    attempted: &str,
    name: &ParameterName,
) -> Result<Option<Stored>, Error> {
    let parameter = read(aws, attempted, name.as_str(), Some(true)).await?;
    Ok(parameter.map(|parameter| Stored {
        version: parameter.version().try_into().unwrap_or_default(),
        written_at: parameter
            .last_modified_date()
            .and_then(|time| Timestamp::from_millisecond(time.to_millis().ok()?).ok()),
        kind: parameter.r#type,
        value: Secret::verbatim(parameter.value.unwrap_or_default()),
    }))
}

/// The reason why a parameter of this type keeps no secret; `None` if it does.
pub fn in_plain(kind: Option<&ParameterType>) -> Option<&'static str> {
    match kind {
        None | Some(ParameterType::SecureString) => None,
        Some(ParameterType::String) => Some("it is a String, which is kept in plain"),
        Some(ParameterType::StringList) => Some("it is a StringList, which is kept in plain"),
        // A type that AWS does not define could be any text, and is not repeated.
        Some(_) => Some("it is no SecureString, and a secret may be kept in nothing else"),
    }
}

/// Reads a parameter that holds no secret and must be a String; `None` if there is no such parameter.
pub async fn plain(
    aws: &Aws,
    attempted: &str,
    name: &str,
    what: &str,
) -> Result<Option<Parameter>, Error> {
    let parameter = read(aws, attempted, name, None).await?;
    parameter.map(|it| check_is_plain(attempted, name, what, &it).map(|()| it)).transpose()
}

/// The version that a selector names (`/name:label`); `None` if there is no such parameter or version.
pub async fn version(aws: &Aws, attempted: &str, selector: &str) -> Result<Option<u64>, Error> {
    let parameter = read(aws, attempted, selector, None).await?;
    Ok(parameter.and_then(|parameter| parameter.version().try_into().ok()))
}

/// Refuses a parameter that is not a String: its value is no secret, and must not look like one.
pub fn check_is_plain(
    attempted: &str,
    name: &str,
    what: &str,
    parameter: &Parameter,
) -> Result<(), Error> {
    match parameter.r#type() {
        None | Some(ParameterType::String) => Ok(()),
        Some(other) => Err(Error::new(
            Kind::BadSpec,
            attempted,
            format!("it is a {}, and {what} is a String", other.as_str()),
            "delete it and create it again with the type String: its type cannot be changed",
        )
        .on(name)),
    }
}

async fn read(
    aws: &Aws,
    attempted: &str,
    name: &str,
    decrypted: Option<bool>,
) -> Result<Option<Parameter>, Error> {
    let get = aws.ssm().get_parameter().name(name).set_with_decryption(decrypted);
    match get.send().await {
        Ok(answer) => answer
            .parameter
            .ok_or_else(|| incomplete("ssm:GetParameter", attempted, name, "parameter"))
            .map(Some),
        // AWS and its emulators do not agree on the code.
        Err(error)
            if matches!(error.code(), Some("ParameterNotFound" | "ParameterVersionNotFound")) =>
        {
            Ok(None)
        }
        Err(error) => Err(failed("ssm:GetParameter", attempted, name, &error)),
    }
}
