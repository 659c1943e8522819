//! The bearer token of an EKS cluster: a presigned call of STS, which the cluster makes to authenticate the
//! caller.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use changeover_core::error::{Error, Kind};
use jiff::Timestamp;
use zeroize::Zeroizing;

/// Time for which a token is used after it was signed. The API server accepts it for 15 minutes after its
/// date, and aws-iam-authenticator's client uses it for 14 (`token.go`, `presignedURLExpiration`).
pub(super) const USED_FOR: Duration = Duration::from_secs(13 * 60);

/// Time limit for fetching credentials. From the environment they are available at once.
pub(super) const CREDENTIALS_WITHIN: Duration = Duration::from_secs(5);

/// The token that authenticates the holder of `credentials` to a cluster, dated `now`. It is a function of
/// its arguments alone. It is valid for 15 minutes, or until the credentials end.
///
/// It is always signed for `sts.<region>.<suffix of the partition>`, whatever endpoint this process is
/// configured to use: that is the only host that the cluster calls (aws-iam-authenticator
/// `pkg/token/token.go`, `GetWithSTS` and `Verify`).
///
/// # Errors
/// `Internal` if the name is not a valid header value: EKS would have refused it.
pub(super) fn token(
    credentials: &Credentials,
    region: &str,
    cluster: &str,
    now: Timestamp,
) -> Result<Zeroizing<String>, Error> {
    let unsigned = |because: &dyn std::error::Error| {
        Error::new(
            Kind::Internal,
            "sign a token for the EKS cluster",
            "the request could not be signed",
            "check the name of the cluster and report this message",
        )
        .on(cluster)
        .caused_by(because)
    };
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    // The server allows at most 900 here and decides by the date anyway. All other clients send 60.
    settings.expires_in = Some(Duration::from_secs(60));
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(SystemTime::from(now))
        .settings(settings)
        .build()
        .map_err(|error| unsigned(&error))?
        .into();

    // The header is part of the signature, so the token is good for this cluster only.
    let url = format!(
        "https://sts.{region}.{}/?Action=GetCallerIdentity&Version=2011-06-15",
        partition_suffix(region)
    );
    let mut request = http::Request::get(&url)
        .header(CLUSTER_HEADER, cluster)
        .body(())
        .map_err(|error| unsigned(&error))?;
    let headers = [(CLUSTER_HEADER, cluster)];
    let signable = SignableRequest::new("GET", &url, headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| unsigned(&error))?;
    let (instructions, _) =
        sign(signable, &parameters).map_err(|error| unsigned(&error))?.into_parts();
    instructions.apply_to_request_http1x(&mut request);

    // The signed URL is the token. It authenticates its holder, so it is wiped from memory like a secret.
    let signed = Zeroizing::new(request.uri().to_string());
    let mut token = Zeroizing::new(String::from("k8s-aws-v1."));
    URL_SAFE_NO_PAD.encode_string(signed.as_bytes(), &mut token);
    Ok(token)
}

/// The header that ties a token to one cluster.
const CLUSTER_HEADER: &str = "x-k8s-aws-id";

/// The domain of a region's partition (botocore `data/partitions.json`, `dnsSuffix`).
fn partition_suffix(region: &str) -> &'static str {
    let suffixes = [
        ("cn-", "amazonaws.com.cn"),
        ("eusc-", "amazonaws.eu"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("us-iso-", "c2s.ic.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
    ];
    suffixes
        .iter()
        .find(|(prefix, _)| region.starts_with(prefix))
        .map_or("amazonaws.com", |(_, suffix)| suffix)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base64::engine::general_purpose::STANDARD;

    use super::*;

    /// The vector of aws-iam-authenticator's `TestGetWithSTS`. The keys are in base64 there too, so that no
    /// scanner takes them for real ones.
    fn credentials(session: Option<&str>) -> Credentials {
        let spelled = |text: &str| String::from_utf8(STANDARD.decode(text).unwrap()).unwrap();
        Credentials::new(
            spelled("QVNJQVIyVEc0NFY2QVMzWlpFN0M="),
            spelled("NEtENWNudEdjVm1MV1JkRjV3dk5SdXpOTDVReG1wNk9LVlk2RnovUQ=="),
            session.map(str::to_owned),
            None,
            "test",
        )
    }

    const SIGNED_AT: &str = "2023-04-28T00:00:00Z";

    fn signed_in(region: &str, cluster: &str, session: Option<&str>) -> Zeroizing<String> {
        token(&credentials(session), region, cluster, SIGNED_AT.parse().unwrap()).unwrap()
    }

    fn url(token: &str) -> http::Uri {
        let url = token.strip_prefix("k8s-aws-v1.").unwrap();
        String::from_utf8(URL_SAFE_NO_PAD.decode(url).unwrap()).unwrap().parse().unwrap()
    }

    #[test]
    fn token_matches_golden_vector() {
        let token = signed_in("us-west-2", "test-cluster", None);
        assert_eq!(token.len(), 493);
        let url = url(&token).to_string();
        assert!(
            url.ends_with(
                "&X-Amz-Signature=\
                 e211dba77aba9dc44b0b6be38b8eaad092599c5157f6314444c5b9d85747f5ce"
            ),
            "{url}"
        );
    }

    /// Makes the checks that the server makes before it calls STS, in its order (aws-iam-authenticator
    /// `token.go`, `Verify`). Each of the 17 refusals of `TestVerifyTokenPreSTSValidations` violates one of
    /// these checks.
    fn verify(token: &str, now: Timestamp) -> Result<(), String> {
        let parameters = parameters_of(&url_of(token)?)?;
        // The call itself: its action, the cluster's header in the signature, and the times.
        let parameter = |name: &str| parameters.get(name).map_or("", String::as_str);
        if parameter("action") != "GetCallerIdentity" {
            return refuse("action");
        }
        if !parameter("x-amz-signedheaders").split(';').any(|header| header == CLUSTER_HEADER) {
            return refuse("cluster not signed");
        }
        if !parameter("x-amz-expires").parse::<u32>().is_ok_and(|seconds| seconds <= 900) {
            return refuse("expires");
        }
        let date = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", parameter("x-amz-date"))
            .and_then(|date| date.to_datetime())
            .and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC))
            .map_err(|_| "date")?;
        if now > date.timestamp() + jiff::SignedDuration::from_mins(15) {
            return refuse("expired");
        }
        Ok(())
    }

    /// The parameters of the URL, by their names in lower case.
    fn parameters_of(url: &http::Uri) -> Result<BTreeMap<String, String>, String> {
        const ALLOWED: [&str; 9] = [
            "action",
            "version",
            "x-amz-algorithm",
            "x-amz-credential",
            "x-amz-date",
            "x-amz-expires",
            "x-amz-security-token",
            "x-amz-signature",
            "x-amz-signedheaders",
        ];
        // Names are compared without case. An unknown or repeated parameter could change the call that the
        // server makes.
        let mut parameters = BTreeMap::new();
        for pair in url.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').ok_or("query")?;
            let name = name.to_ascii_lowercase();
            let escapes = value.match_indices('%').all(|(at, _)| {
                value.get(at + 1..at + 3).is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok())
            });
            if !escapes {
                return refuse("malformed query parameter");
            }
            if !ALLOWED.contains(&name.as_str()) {
                return refuse("non-whitelisted query parameter");
            }
            let value = value.replace("%3B", ";").replace("%3b", ";");
            if parameters.insert(name, value).is_some() {
                return refuse("duplicate query parameter");
            }
        }
        Ok(parameters)
    }

    /// The URL in a token of the right form.
    fn url_of(token: &str) -> Result<http::Uri, String> {
        if token.len() > 4096 {
            return refuse("too large");
        }
        let Some(encoded) = token.strip_prefix("k8s-aws-v1.") else {
            return refuse("prefix");
        };
        let decoded = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| "base64")?;
        let url: http::Uri =
            String::from_utf8(decoded).map_err(|_| "utf-8")?.parse().map_err(|_| "url")?;
        if url.scheme_str() != Some("https") {
            return refuse("scheme");
        }
        let host = url.host().unwrap_or_default();
        let suffixes = [".amazonaws.com", ".amazonaws.com.cn"];
        if !host.starts_with("sts.") || !suffixes.iter().any(|suffix| host.ends_with(suffix)) {
            return refuse("host");
        }
        if url.path() != "/" {
            return refuse("path");
        }
        Ok(url)
    }

    fn refuse<T>(what: &str) -> Result<T, String> {
        Err(what.to_owned())
    }

    fn encoded(url: &str) -> String {
        format!("k8s-aws-v1.{}", URL_SAFE_NO_PAD.encode(url))
    }

    #[test]
    fn token_verifies_until_expiry_with_or_without_session() {
        let session = "IQoJb3JpZ2luX2VjE/+==".repeat(40);
        for session in [None, Some(session.as_str())] {
            for region in ["us-west-2", "eu-west-1", "cn-north-1"] {
                let token = signed_in(region, "test-cluster", session);
                let signed_at: Timestamp = SIGNED_AT.parse().unwrap();
                let used_for = jiff::SignedDuration::try_from(USED_FOR).unwrap();
                assert_eq!(verify(&token, signed_at), Ok(()), "{region}");
                assert_eq!(verify(&token, signed_at + used_for), Ok(()), "{region}");
                let old = signed_at + jiff::SignedDuration::from_secs(901);
                assert_eq!(verify(&token, old), Err("expired".to_owned()), "{region}");
            }
        }
    }

    #[test]
    fn server_rules_refuse_invalid_tokens() {
        let now = SIGNED_AT.parse().unwrap();
        let date = "20230428T000000Z";
        let good = format!(
            "action=GetCallerIdentity&x-amz-signedheaders=x-k8s-aws-id&x-amz-date={date}\
             &x-amz-expires=60"
        );
        for host in ["us-east-2", "ap-northeast-2", "ca-central-1", "eu-west-1", "sa-east-1"] {
            let token = encoded(&format!("https://sts.{host}.amazonaws.com/?{good}"));
            assert_eq!(verify(&token, now), Ok(()));
        }
        let sts = |query: &str| encoded(&format!("https://sts.us-west-2.amazonaws.com/?{query}"));
        let refused = [
            ("\0".repeat(4097), "too large"),
            ("k8s-aws-v2.asdfasdfa".to_owned(), "prefix"),
            ("k8s-aws-v1.decodingerror".to_owned(), "base64"),
            (encoded(":ab:cd.af:/asda"), "url"),
            (encoded("http://sts.amazonaws.com/"), "scheme"),
            (encoded("https://google.com"), "host"),
            (encoded("https://sts.cn-north-1.amazonaws.com.cn/abc"), "path"),
            (encoded("https://sts.amazonaws.com/abc"), "path"),
            (sts("NoInWhiteList=abc"), "non-whitelisted query parameter"),
            (sts("action=get&action=post"), "duplicate query parameter"),
            (sts("action=NotGetCallerIdenity"), "action"),
            (
                sts("action=GetCallerIdentity&x-amz-signedheaders=abc%3bx-k8s-aws-i%3bdef"),
                "cluster not signed",
            ),
            (sts(&good.replace("=60", "=9999999")), "expires"),
            (sts(&good.replace(date, "xxxxxxx")), "date"),
            (sts(&good.replace(date, "19900422T010203Z")), "expired"),
            (sts(&good.replace("=60", "=60%gh")), "malformed query parameter"),
            (
                sts(&format!("{good}&X-Amz-Credential=a&x-amz-credential=eve")),
                "duplicate query parameter",
            ),
        ];
        for (token, why) in refused {
            assert_eq!(verify(&token, now), Err(why.to_owned()), "{token}");
        }
    }

    #[test]
    fn sts_host_matches_partition_of_region() {
        let host = |region: &str| url(&signed_in(region, "c", None)).host().unwrap().to_owned();
        assert_eq!(host("eu-west-1"), "sts.eu-west-1.amazonaws.com");
        assert_eq!(host("us-gov-west-1"), "sts.us-gov-west-1.amazonaws.com");
        assert_eq!(host("cn-north-1"), "sts.cn-north-1.amazonaws.com.cn");
        assert_eq!(host("us-isob-east-1"), "sts.us-isob-east-1.sc2s.sgov.gov");
    }

    #[test]
    fn token_depends_on_cluster_and_time() {
        let token_of = |cluster: &str, time: &str| {
            token(&credentials(None), "us-west-2", cluster, time.parse().unwrap()).unwrap()
        };
        let first = token_of("a", SIGNED_AT);
        assert_eq!(first, token_of("a", SIGNED_AT));
        assert_ne!(first, token_of("b", SIGNED_AT));
        assert_ne!(first, token_of("a", "2023-04-28T00:00:01Z"));
        assert!(
            token(&credentials(None), "us-west-2", "a\nb", SIGNED_AT.parse().unwrap()).is_err()
        );
    }
}
