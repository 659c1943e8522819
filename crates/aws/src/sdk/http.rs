//! The one HTTP client of AWS's SDKs: rustls on ring. It uses the proxies and certificates that the
//! environment names, as the AWS CLI does.

use std::{ffi::OsStr, fs, path::Path, time::Duration};

use aws_smithy_http_client::{
    Builder, Connector,
    proxy::ProxyConfig,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use changeover_core::error::{Error, Kind, error_chain};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Time for which an unused connection is kept. It is shorter than on AWS's side, so that a request is
/// seldom sent on a connection that is just being closed, which would leave it in doubt.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Names a file of certificates to trust in place of the computer's (AWS SDKs and Tools Reference Guide,
/// "AWS_CA_BUNDLE").
const CA_BUNDLE: &str = "AWS_CA_BUNDLE";

/// The client. Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or
/// lower case.
///
/// # Errors
/// `BadSpec` if `AWS_CA_BUNDLE` names no file of certificates.
#[expect(
    clippy::disallowed_methods,
    reason = "AWS's own variables, like the region, are read where its clients are made"
)]
pub fn client() -> Result<SharedHttpClient, Error> {
    let bundle = std::env::var_os(CA_BUNDLE).filter(|path| !path.is_empty());
    let trust_store = match bundle {
        Some(path) => bundled(&path)?,
        None => TrustStore::default(),
    };
    let context = TlsContext::builder().with_trust_store(trust_store).build();
    let context = context.map_err(|error| unusable(CA_BUNDLE.as_ref(), error_chain(&error)))?;
    Ok(Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .tls_context(context.clone())
            .proxy_config(ProxyConfig::from_env())
            .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT);
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.build()
    }))
}

/// The trust store of a file of certificates in PEM. It is checked here, because the client itself would
/// panic if the file is invalid.
fn bundled(path: &OsStr) -> Result<TrustStore, Error> {
    let pem = fs::read(path).map_err(|error| unusable(path, error_chain(&error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate
            .map_err(|error| error_chain(&error))
            .and_then(|certificate| roots.add(certificate).map_err(|error| error_chain(&error)));
        added.map_err(|because| unusable(path, because))?;
    }
    if roots.is_empty() {
        return Err(unusable(path, "it holds no certificate in PEM".to_owned()));
    }
    Ok(TrustStore::empty().with_pem_certificate(pem))
}

fn unusable(path: &OsStr, because: String) -> Error {
    Error::new(
        Kind::BadSpec,
        "read the certificates of AWS_CA_BUNDLE,",
        because,
        "name a file of certificates in PEM, or unset AWS_CA_BUNDLE",
    )
    .on(Path::new(path).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_ca_bundle_is_named_in_error() {
        let directory =
            std::env::temp_dir().join(format!("changeover-bundle-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let certificate = |body: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        };
        for (name, pem, words) in [
            ("empty", String::new(), "it holds no certificate in PEM"),
            ("text", "no certificate".to_owned(), "it holds no certificate in PEM"),
            ("damaged", certificate("%%%"), "base64"),
            ("other", certificate("AAAA"), "certificate"),
        ] {
            let path = directory.join(name);
            fs::write(&path, pem).unwrap();
            let error = bundled(path.as_os_str()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("AWS_CA_BUNDLE"), "{error}");
            assert!(error.to_lowercase().contains(&words.to_lowercase()), "{error}");
        }
        let absent = bundled(directory.join("absent").as_os_str()).unwrap_err().to_string();
        assert!(absent.contains("No such file"), "{absent}");
        fs::remove_dir_all(&directory).unwrap();
    }
}
