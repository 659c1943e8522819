//! EKS: finds a cluster, and authenticates the function to it.

mod bearer;

use std::sync::Arc;

use aws_credential_types::{Credentials, provider::ProvideCredentials};
use aws_sdk_eks::types::{AccessConfigResponse, AuthenticationMode, Cluster, ClusterStatus};
use changeover_core::{
    error::{Error, Kind},
    spec::EksCluster,
};
use jiff::Timestamp;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    Aws,
    sdk::{failed, incomplete},
};

/// The API server of an EKS cluster.
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// The certificate authority that signs its certificate: PEM in base64.
    pub authority: String,
    /// The fix if the API server does not know the caller.
    pub introduce: String,
}

/// A bearer token that authenticates the caller to a cluster.
pub struct BearerToken {
    /// The token.
    pub token: Zeroizing<String>,
    /// Time after which another token must be signed.
    pub used_until: Timestamp,
}

/// Credentials that describe one cluster and authenticate to it: the function's own, or those of a role
/// that was assumed for it.
pub struct Session<'a> {
    eks: &'a EksCluster,
    /// AWS in the cluster's region.
    aws: Arc<Aws>,
    region: String,
    credentials: Credentials,
}

impl<'a> Session<'a> {
    /// Fetches the credentials. A role is assumed by a call in the function's own region: its sessions are
    /// valid in every region.
    ///
    /// # Errors
    /// The reason why there are no credentials.
    pub async fn open(own: &Arc<Aws>, eks: &'a EksCluster) -> Result<Self, Error> {
        let unknown = |because: &str| {
            Error::new(
                Kind::AccessDenied,
                "sign a token for the EKS cluster",
                because,
                "give the function a role and a region",
            )
            .on(&eks.name)
        };
        let own_region = own.config().region().ok_or_else(|| unknown("there is no region"))?;
        let region = eks.region.clone().unwrap_or_else(|| own_region.to_string());
        let credentials = match &eks.role {
            Some(role) => assume(own, role).await?,
            None => {
                let provider = own.config().credentials_provider();
                let provider = provider.ok_or_else(|| unknown("there are no credentials"))?;
                timeout(bearer::CREDENTIALS_WITHIN, provider.provide_credentials())
                    .await
                    .map_err(|_| unknown("the credentials did not come in time"))?
                    .map_err(|error| unknown("there are no credentials").caused_by(&error))?
            }
        };
        let aws = match (&eks.region, &eks.role) {
            (None, None) => Arc::clone(own),
            _ => Arc::new(own.with(&region, credentials.clone())),
        };
        Ok(Self { eks, aws, region, credentials })
    }

    /// Fetches the cluster's endpoint.
    ///
    /// # Errors
    /// The error of DescribeCluster, or the field that its answer lacks.
    pub async fn endpoint(&self) -> Result<Endpoint, Error> {
        // A cluster that does not exist is a mistake in the spec. Its error names the account and the
        // region.
        let attempted = "describe the EKS cluster";
        let name = &self.eks.name;
        let answer = match self.aws.eks().describe_cluster().name(name).send().await {
            Ok(answer) => answer,
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                let whose = match &self.eks.role {
                    Some(role) => format!("the account of {role}"),
                    None => "the function's account".to_owned(),
                };
                return Err(Error::new(
                    Kind::BadSpec,
                    attempted,
                    format!("there is no such cluster in {whose} and region {}", self.region),
                    "correct the workload's cluster, or describe it in a parameter below \
                     CHANGEOVER_CLUSTERS",
                )
                .on(name));
            }
            Err(error) => return Err(failed("eks:DescribeCluster", attempted, name, &error)),
        };
        // A cluster that is still being created has neither endpoint nor authority.
        let cluster = answer.cluster();
        let url = cluster.and_then(|cluster| cluster.endpoint());
        let authority = cluster
            .and_then(|cluster| cluster.certificate_authority())
            .and_then(|authority| authority.data());
        match (url, authority) {
            (Some(url), Some(authority)) => Ok(Endpoint {
                url: url.to_owned(),
                authority: authority.to_owned(),
                introduce: introduce(cluster, self.eks.role.as_deref()),
            }),
            _ => {
                let status = cluster
                    .and_then(|cluster| cluster.status())
                    .map_or("unknown", ClusterStatus::as_str);
                let because = format!("it has no endpoint yet: its status is {status}");
                let fix = "wait until the cluster is ACTIVE";
                Err(Error::new(Kind::Unreachable, attempted, because, fix).on(name))
            }
        }
    }

    /// Signs a token for the cluster, and says until when it is used.
    ///
    /// # Errors
    /// The reason why it cannot be signed.
    pub fn bearer_token(&self, now: Timestamp) -> Result<BearerToken, Error> {
        let ends = self.credentials.expiry().and_then(|expiry| Timestamp::try_from(expiry).ok());
        let used_until = now.saturating_add(bearer::USED_FOR).unwrap_or(Timestamp::MAX);
        let used_until = used_until.min(ends.unwrap_or(Timestamp::MAX));
        let token = bearer::token(&self.credentials, &self.region, &self.eks.name, now)?;
        Ok(BearerToken { token, used_until })
    }
}

/// The fix if the cluster does not know the calling role. EKS refuses an access entry if the authentication
/// mode is `CONFIG_MAP` (EKS User Guide, "Set authentication mode").
fn introduce(cluster: Option<&Cluster>, role: Option<&str>) -> String {
    let role = role.unwrap_or("the function's role");
    let mode = cluster
        .and_then(Cluster::access_config)
        .and_then(AccessConfigResponse::authentication_mode);
    match mode {
        Some(AuthenticationMode::ConfigMap) => format!(
            "its authentication mode is CONFIG_MAP, which knows no access entries: map {role} in \
             kube-system/aws-auth (mapRoles) to username changeover:{{{{SessionName}}}} and group changeover, or \
             set the mode to API_AND_CONFIG_MAP and create an access entry"
        ),
        _ => format!("create an access entry for {role} with the group changeover"),
    }
}

/// The credentials of a role, valid for one hour: the limit for a role that is assumed by another role.
async fn assume(own: &Aws, role: &str) -> Result<Credentials, Error> {
    let attempted = "assume the cluster's role";
    let call = own.sts().assume_role().role_arn(role).role_session_name("changeover");
    let answer = call.send().await.map_err(|error| {
        let error = failed("sts:AssumeRole", attempted, role, &error);
        match error.kind {
            Kind::AccessDenied => Error {
                fix: "name it in the stack's ClusterRoles, and the function's role in its trust \
                      policy"
                    .to_owned(),
                ..error
            },
            _ => error,
        }
    })?;
    let lacking = || incomplete("sts:AssumeRole", attempted, role, "credentials");
    let session = answer.credentials.ok_or_else(lacking)?;
    let ends = (*session.expiration()).try_into().map_err(|_| lacking())?;
    Ok(Credentials::new(
        session.access_key_id,
        session.secret_access_key,
        Some(session.session_token),
        Some(ends),
        "AssumeRole",
    ))
}
