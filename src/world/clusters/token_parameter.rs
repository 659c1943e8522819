//! The bearer token of an API server that AWS knows nothing of: the value of a SecureString.

use aws_sdk_ssm::{error::ProvideErrorMetadata, types::ParameterType};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::client::Identity;
use crate::{
    error::{Error, Kind},
    spec::ParameterName,
    world::aws::{Aws, failed, incomplete},
};

/// Reads the token. It is used until the API server does not take it.
///
/// # Errors
/// What keeps it from being read, and what keeps it from being a token. None shows the value.
pub(super) async fn identity(aws: &Aws, name: &ParameterName) -> Result<Identity, Error> {
    let unusable =
        |because: String, fix: &str| Error::new(Kind::BadSpec, READ, because, fix).on(name);
    let answer = aws.ssm().get_parameter().name(name.as_str()).with_decryption(true).send().await;
    let parameter = match answer {
        Ok(answer) => answer.parameter,
        Err(error) if error.code() == Some("ParameterNotFound") => {
            return Err(unusable(
                "it does not exist".to_owned(),
                "put the token of a service account there, as a SecureString",
            ));
        }
        Err(error) => return Err(failed("ssm:GetParameter", READ, name, &error)),
    };
    let parameter =
        parameter.ok_or_else(|| incomplete("ssm:GetParameter", READ, name, "parameter"))?;
    match parameter.r#type() {
        None | Some(ParameterType::SecureString) => {}
        Some(other) => {
            return Err(unusable(
                format!("it is a {}, which is kept in plain", other.as_str()),
                "put a new token into a SecureString: this one may have been read",
            ));
        }
    }
    let value = Zeroizing::new(parameter.value.unwrap_or_default());
    // A file's last end of line comes along easily.
    let token = value.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable(
            "its value is no bearer token: it is empty, or has characters that no header takes"
                .to_owned(),
            "put the token of a service account there, and nothing else",
        ));
    }
    Ok(Identity { token: Zeroizing::new(token.to_owned()), used_until: Timestamp::MAX })
}

const READ: &str = "read the bearer token of a cluster from";
