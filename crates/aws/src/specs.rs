//! Specs in Parameter Store: one String parameter per token, below one path.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_ssm::types::Parameter;
use changeover_core::{
    error::{Error, Kind},
    ports::{SpecText, Specs},
};
use changeover_token::TokenName;
use jiff::Timestamp;

use crate::{
    Aws,
    sdk::{
        failed,
        parameter::{self, check_is_plain},
    },
};

/// Specs below one path.
pub struct SsmSpecs {
    aws: Arc<Aws>,
    path: String,
}

impl SsmSpecs {
    /// Specs below this path, which does not end with a slash.
    pub fn new(aws: Arc<Aws>, path: String) -> Self {
        Self { aws, path }
    }
}

#[async_trait]
impl Specs for SsmSpecs {
    async fn spec(&self, token: &TokenName) -> Result<Option<SpecText>, Error> {
        let name = format!("{}/{token}", self.path);
        Ok(parameter::plain(&self.aws, READ, &name, WHAT).await?.map(text_in))
    }

    async fn all(&self) -> Result<Vec<(TokenName, Result<SpecText, Error>)>, Error> {
        let mut specs = Vec::new();
        let mut pages = self
            .aws
            .ssm()
            .get_parameters_by_path()
            .path(&self.path)
            .recursive(false)
            .max_results(PAGE)
            .into_paginator()
            .send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| {
                failed("ssm:GetParametersByPath", "read the specs below", &self.path, &error)
            })?;
            for parameter in page.parameters.unwrap_or_default() {
                let name = parameter.name.clone().unwrap_or_default();
                let last = name.rsplit('/').next().unwrap_or_default();
                let Ok(token) = TokenName::parse(last) else {
                    continue;
                };
                let is_plain = check_is_plain(READ, &name, WHAT, &parameter);
                specs.push((token, is_plain.map(|()| text_in(parameter))));
            }
            if specs.len() > MOST_SPECS {
                return Err(Error::new(
                    Kind::TooLarge,
                    "read the specs below",
                    format!("there are more than {MOST_SPECS}"),
                    "deploy changeover once more, with another CHANGEOVER_SPECS and table",
                )
                .on(&self.path));
            }
        }
        specs.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(specs)
    }
}

fn text_in(parameter: Parameter) -> SpecText {
    let modified_at = parameter.last_modified_date().and_then(|at| at.to_millis().ok());
    SpecText {
        version: parameter.version(),
        modified_at: modified_at.and_then(|at| Timestamp::from_millisecond(at).ok()),
        json: parameter.value.unwrap_or_default(),
    }
}

const READ: &str = "read the spec";
/// A spec is stored in plain, so that it is not mistaken for a secret.
const WHAT: &str = "a spec";
/// Largest page that Parameter Store returns (API reference, `GetParametersByPath`).
const PAGE: i32 = 10;
const MOST_SPECS: usize = 10_000;
