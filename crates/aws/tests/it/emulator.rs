//! The emulator of AWS and tests that need it. `CHANGEOVER_TESTBED` names the description of its testbed.

use std::sync::Arc;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType,
};
use aws_sdk_ssm::types::ParameterType;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use changeover_aws::{Aws, AwsPublications, DynamoDbRecords, Kept, SsmInboxes, SsmSpecs};
use changeover_core::{
    clock::Clock,
    error::Kind,
    ports::{Inboxes, Publications, Specs},
    spec::{ParameterName, Place, Side},
};
use changeover_testkit::{
    amount::testbed_description,
    contract::Stores,
    sample::{accepted, named, presented},
};
use jiff::Timestamp;
use rand::{TryRng as _, rngs::SysRng};
use serde_json::Value;

const ITEMS: &str = "changeover-contract-items";

/// A running testbed.
pub(super) struct Testbed {
    description: Value,
    now: Timestamp,
    suffix: String,
    aws: Arc<Aws>,
}

impl Testbed {
    /// Connects to the testbed that the environment names.
    #[expect(
        clippy::disallowed_methods,
        reason = "the edge of these tests: where their time comes from"
    )]
    pub(super) async fn named() -> Self {
        let description = testbed_description();
        let now = Timestamp::now();
        let endpoint = text(&description["aws"]["endpoint"]);
        let testbed = Self {
            aws: aws_at(&description, endpoint),
            description,
            now: Timestamp::from_millisecond(now.as_millisecond()).expect("a time"),
            // A new suffix in each run: names of an earlier run still exist.
            suffix: format!("{:x}", now.as_nanosecond()),
        };
        testbed.create_items().await;
        testbed
    }

    pub(super) fn stores(&self) -> Stores {
        let clock = Clock::starting_at(self.now);
        let random_source = Arc::new(|buffer: &mut [u8]| {
            SysRng.try_fill_bytes(buffer).expect("random bytes");
            Ok(())
        });
        let aws = Arc::clone(&self.aws);
        Stores {
            records: Arc::new(DynamoDbRecords::new(aws, self.kept(), clock, random_source)),
            publications: Arc::new(self.publications(&self.aws)),
            clock,
            items: ITEMS.to_owned(),
            suffix: self.suffix.clone(),
        }
    }

    fn publications(&self, aws: &Arc<Aws>) -> AwsPublications {
        AwsPublications::new(Arc::clone(aws), text(&self.description["publication_key"]).to_owned())
    }

    /// The emulator that enforces Parameter Store's limits.
    fn with_limits(&self) -> Arc<Aws> {
        aws_at(&self.description, text(&self.description["moto"]))
    }

    fn kept(&self) -> Kept {
        Kept {
            table: text(&self.description["table"]).to_owned(),
            key: text(&self.description["key"]).to_owned(),
            scope: "changeover".to_owned(),
        }
    }

    async fn create_items(&self) {
        let attribute = AttributeDefinition::builder()
            .attribute_name("id")
            .attribute_type(ScalarAttributeType::S)
            .build();
        let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash).build();
        let created = self
            .aws
            .dynamodb()
            .create_table()
            .table_name(ITEMS)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute.expect("an attribute"))
            .key_schema(key.expect("a key"))
            .send()
            .await;
        if let Err(error) = created {
            let error = error.into_service_error();
            assert!(error.is_resource_in_use_exception(), "{error}");
        }
    }
}

fn aws_at(description: &Value, endpoint: &str) -> Arc<Aws> {
    let aws = &description["aws"];
    let key_id = text(&aws["access_key_id"]);
    let secret = text(&aws["secret_access_key"]);
    let credentials = Credentials::new(key_id, secret, None, None, "testbed");
    let http_client = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(text(&aws["region"]).to_owned()))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(endpoint)
        .http_client(http_client);
    Arc::new(Aws::new(config.build()))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text in the testbed's description")
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn write_preserves_other_item_attributes() {
    let testbed = Testbed::named().await;
    let stores = testbed.stores();
    let place = stores.item("other");
    let id = AttributeValue::S(format!("other-{}", stores.suffix));
    let other = AttributeValue::L(vec![AttributeValue::N("1".to_owned())]);
    let put = testbed.aws.dynamodb().put_item().table_name(ITEMS).item("id", id.clone());
    put.item("other", other.clone()).send().await.expect("put");

    let token = stores.token("other");
    for view in [presented(&token, 1, "ds_s3cret"), accepted(&token, 1)] {
        stores.publications.write(&place, None, &view).await.expect("written");
    }
    let get = testbed.aws.dynamodb().get_item().table_name(ITEMS).key("id", id);
    let item = get.send().await.expect("an answer").item.expect("an item");
    assert_eq!(item.get("other"), Some(&other));
    assert_eq!(item.get("token"), Some(&AttributeValue::S("ds_s3cret".to_owned())));
    // Each view also has its life and its revision, and the item has a mark of its owner.
    assert_eq!(item.len(), 10);
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn moved_label_selects_its_new_version() {
    let testbed = Testbed::named().await;
    let stores = testbed.stores();
    let publication = stores.parameter("named");
    let Place::Parameter(name) = &publication.place else { panic!("a parameter") };
    let token = stores.token("named");
    for (revision, value) in [(1, "one"), (2, "two")] {
        let view = presented(&token, revision, value);
        let written = stores.publications.write(&publication, None, &view).await;
        let version = written.expect("written").store_version;
        stores.publications.label(&publication.place, "current", version).await.expect("put");
        let selector = format!("{name}:current");
        let get = testbed.aws.ssm().get_parameter().name(selector).with_decryption(true);
        let parameter = get.send().await.expect("an answer").parameter.expect("a parameter");
        assert_eq!(parameter.value(), Some(value));
        assert_eq!(parameter.r#type(), Some(&ParameterType::SecureString));
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn plain_parameter_is_not_overwritten() {
    let testbed = Testbed::named().await;
    let stores = testbed.stores();
    let publication = stores.parameter("plain");
    let Place::Parameter(name) = &publication.place else { panic!("a parameter") };
    let put = testbed.aws.ssm().put_parameter().name(name.as_str()).value("by hand");
    put.r#type(ParameterType::String).send().await.expect("put");
    let view = presented(&stores.token("plain"), 1, "ds_s3cret");
    let written = stores.publications.write(&publication, None, &view).await;
    assert_eq!(written.expect_err("refused").error.kind, Kind::PreflightFailed);
    let found = testbed.aws.ssm().get_parameter().name(name.as_str()).send().await;
    let found = found.expect("an answer").parameter.expect("a parameter");
    assert_eq!(found.value(), Some("by hand"));
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn only_direct_children_of_path_are_specs() {
    let testbed = Testbed::named().await;
    let path = format!("/contract/{}/specs", testbed.suffix);
    let names: Vec<_> = (0..23).map(|number| format!("token-{number:02}")).collect();
    for name in names.iter().map(String::as_str).chain(["deeper/token", "Not-a-token"]) {
        let put = testbed.aws.ssm().put_parameter().name(format!("{path}/{name}"));
        put.value("{}").r#type(ParameterType::String).send().await.expect("put");
    }
    let specs = SsmSpecs::new(Arc::clone(&testbed.aws), path.clone());
    let all = specs.all().await.expect("an answer");
    let found: Vec<_> = all.iter().map(|(token, _)| token.as_str()).collect();
    assert_eq!(found, names);
    let spec = specs.spec(&named("token-07")).await.expect("an answer").expect("a spec");
    assert_eq!((spec.version, spec.json.as_str()), (1, "{}"));
    assert!(spec.modified_at.is_some(), "when it was written is known");
    assert_eq!(specs.spec(&named("token-99")).await.expect("an answer"), None);
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn inbox_returns_last_written_value() {
    let testbed = Testbed::named().await;
    let stores = testbed.stores();
    let inboxes = SsmInboxes::new(Arc::clone(&testbed.aws));
    let Place::Parameter(name) = stores.parameter("inbox").place else { panic!("a parameter") };
    assert!(inboxes.read(&name).await.expect("an answer").is_none());
    let mut before = None;
    for (version, (value, kind)) in
        [("one", ParameterType::SecureString), ("two", ParameterType::SecureString)]
            .iter()
            .enumerate()
    {
        let put = testbed.aws.ssm().put_parameter().name(name.as_str()).value(*value);
        put.r#type(kind.clone()).overwrite(true).send().await.expect("put");
        let arrival = inboxes.read(&name).await.expect("an answer").expect("an arrival");
        assert_eq!(arrival.value.expose(), *value);
        assert!(arrival.is_secure);
        assert_eq!(arrival.version, version as u64 + 1);
        assert!(before.is_none_or(|before| before <= arrival.written_at));
        before = Some(arrival.written_at);
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn label_on_oldest_version_blocks_write_until_moved() {
    let testbed = Testbed::named().await;
    let publications = testbed.publications(&testbed.with_limits());
    let publication = testbed.stores().parameter("limits");
    let token = named("limits");
    let mut key = None;
    for revision in 1..=100 {
        let view = presented(&token, revision, "ds_s3cret");
        let written = publications.write(&publication, key.as_deref(), &view).await;
        key = written.unwrap_or_else(|error| panic!("{}", error.error)).key;
    }
    publications.label(&publication.place, "current", 1).await.expect("put");
    let view = presented(&token, 101, "ds_s3cret");
    let error = publications.write(&publication, key.as_deref(), &view).await;
    let error = error.expect_err("the oldest version has a label");
    assert_eq!(error.error.kind, Kind::PreflightFailed, "{}", error.error);
    assert!(error.error.fix.contains("label") && !error.unanswered, "{}", error.error);
    publications.label(&publication.place, "current", 100).await.expect("put");
    let written = publications.write(&publication, key.as_deref(), &view).await;
    assert_eq!(written.expect("written").store_version, 101);
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn invalid_label_is_named_in_error() {
    let testbed = Testbed::named().await;
    let publications = testbed.publications(&testbed.with_limits());
    let publication = testbed.stores().parameter("invalid");
    let view = presented(&named("invalid"), 1, "ds_s3cret");
    publications.write(&publication, None, &view).await.expect("written");
    for label in ["aws-label", "1st"] {
        let error = publications.label(&publication.place, label, 1).await.expect_err("invalid");
        assert!(error.error.to_string().contains(label), "{}", error.error);
    }
}

#[tokio::test]
#[ignore = "needs a testbed: `make test`"]
async fn missing_parameter_reads_as_none() {
    let testbed = Testbed::named().await;
    for aws in [Arc::clone(&testbed.aws), testbed.with_limits()] {
        let name = ParameterName::parse("/contract/never/written").expect("a name");
        let place = Place::Parameter(name);
        let holding = testbed.publications(&aws).read(&place, Side::Presenters).await;
        assert!(holding.expect("an answer").is_none());
    }
}
