//! The bearer token of an API server outside AWS: the value of a SecureString.

use changeover_aws::{Aws, sdk::parameter};
use changeover_core::{
    error::{Error, Kind},
    spec::ParameterName,
};
use changeover_kubernetes::client::Identity;
use jiff::Timestamp;
use zeroize::Zeroizing;

/// Reads the token. It is used until the API server refuses it.
///
/// # Errors
/// The reason why it cannot be read, or is not a token. No error shows the value.
pub(super) async fn identity(aws: &Aws, name: &ParameterName) -> Result<Identity, Error> {
    let unusable =
        |because: &str, fix: &str| Error::new(Kind::BadSpec, READ, because, fix).on(name);
    let Some(stored) = parameter::secret(aws, READ, name).await? else {
        return Err(unusable(
            "it does not exist",
            "put the token of a service account there, as a SecureString",
        ));
    };
    if let Some(because) = parameter::in_plain(stored.kind.as_ref()) {
        let fix = "put a new token into a SecureString: this one may have been read";
        return Err(unusable(because, fix));
    }
    // A newline at the end of a file is easily stored with the token.
    let token = stored.value.expose().trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable(
            "its value is no bearer token: it is empty, or has characters that no header takes",
            "put the token of a service account there, and nothing else",
        ));
    }
    Ok(Identity { token: Zeroizing::new(token.to_owned()), used_until: Timestamp::MAX })
}

const READ: &str = "read the bearer token of a cluster from";
