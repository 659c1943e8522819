//! Properties that hold for every input.

use std::convert::Infallible;

use changeover_core::{
    error::Kind,
    event::Request,
    spec::{ClusterDescription, ItemKey, KeyValue, ParameterName, Place, Spec, WRITTEN_ATTRIBUTES},
};
use changeover_testkit::sample::pointers;
use changeover_token::{
    AcceptedForm, Digest, Generation, LARGEST_VALUE, Prefix, Secret, TokenName,
};

use super::{example, name, parse};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::collection::vec;
use proptest::prelude::*;
use rand::{TryCryptoRng, TryRng};
use serde_json::{Value, json};
use sha2::Digest as _;

proptest! {
    #[test]
    fn minted_token_is_prefix_entropy_and_checksum(
        (generation, prefix, bytes) in any_generation(),
        entropy in vec(any::<u8>(), 64),
    ) {
        let secret = mint(&generation, &entropy);
        let (body, checksum) = secret.expose().split_at(secret.expose().len() - 6);
        let expected = sha2::Sha256::digest(body.as_bytes());
        prop_assert_eq!(URL_SAFE_NO_PAD.decode(checksum).expect("it is base64url"), &expected[..4]);
        let random = body.strip_prefix(&prefix).expect("it begins with its prefix");
        let random = URL_SAFE_NO_PAD.decode(random).expect("it is base64url");
        prop_assert_eq!(random, &entropy[..usize::from(bytes)]);
        prop_assert_eq!(secret.expose().len(), generation.length());
        prop_assert!(Secret::adopt(secret.expose().to_owned()).is_ok());
    }

    #[test]
    fn secret_is_absent_from_all_its_text_forms(
        (generation, _, _) in any_generation(),
        entropy in vec(any::<u8>(), 64),
    ) {
        let secret = mint(&generation, &entropy);
        let value = secret.expose();
        let spec = |pasted: Value| {
            let mut spec = example();
            spec["token"] = pasted;
            parse(&spec).expect_err("a token is no spec")
        };
        let event = |field: &str, value: String| {
            let mut event = json!({"action": "rotate", "token": "a"});
            event[field] = json!(value);
            Request::parse(&event).expect_err("a token is no name")
        };
        let errors = [
            spec(json!(value)),
            spec(json!({"prefix": value})),
            event("token", format!("{value}_")),
            event("key", format!("{value}<aws.")),
            Secret::adopt(format!("{value}\n")).expect_err("a line end is no part of a token").into(),
            Secret::adopt(format!("{value}{{{{")).expect_err("SSM refuses it").into(),
        ];
        let mut texts = vec![
            format!("{secret}"),
            format!("{secret:?}"),
            format!("{:#?}", Some(&secret)),
            format!("{:?}", secret.digest()),
            format!("{generation:?}"),
        ];
        for error in &errors {
            texts.push(format!("{error}"));
            texts.push(format!("{error:?}"));
        }
        let random = &value[value.len() - 40..];
        for text in texts {
            prop_assert!(!text.contains(random), "{}", text);
        }
    }

    #[test]
    fn deepest_accepted_document_fits_a_parameter(
        (generation, prefix, bytes) in any_generation(),
        plain in any::<bool>(),
    ) {
        let mut spec = example();
        spec["token"] = json!({"bytes": bytes});
        if !prefix.is_empty() {
            spec["token"]["prefix"] = json!(prefix);
        }
        spec["verifiers"]["publish"][0]["as"] = json!(if plain { "plain" } else { "sha256" });
        let spec = parse(&spec).expect("it is a spec");
        let form = spec.verifiers.publications[0].form;
        let depth = spec.accepted_depth();
        prop_assert!((20..=32).contains(&depth), "{}", depth);
        prop_assert!(longest_document(form, generation.length(), depth) <= LARGEST_VALUE);
    }

    #[test]
    fn place_round_trips_through_its_text(place in any_place()) {
        let text = place.to_string();
        prop_assert_eq!(text.parse::<Place>(), Ok(place.clone()));
        let json = serde_json::to_string(&place).expect("a place is a text");
        prop_assert_eq!(serde_json::from_str::<Place>(&json).expect("it reads back"), place);
    }

    #[test]
    fn different_places_have_different_texts(one in any_place(), other in any_place()) {
        prop_assert_eq!(one == other, one.to_string() == other.to_string());
    }

    #[test]
    fn text_is_one_place_or_none(text in "(ssm:/|dynamodb:abc/)[a-z/%,=:n0-9+A-F]{0,12}|\\PC*") {
        if let Ok(place) = text.parse::<Place>() {
            prop_assert_eq!(place.to_string(), text);
        }
    }

    #[test]
    fn names_and_digests_are_read_back_from_json(text in "[a-z0-9-]{1,63}", bytes in any::<Vec<u8>>()) {
        let token = name(&text);
        let json = serde_json::to_string(&token).expect("a name is a text");
        prop_assert_eq!(serde_json::from_str::<TokenName>(&json).expect("it reads back"), token);
        let digest = Digest::of(bytes);
        let json = serde_json::to_string(&digest).expect("a digest is a text");
        prop_assert_eq!(serde_json::from_str::<Digest>(&json).expect("it reads back"), digest);
        prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
    }

    #[test]
    fn any_json_is_a_spec_or_bad_spec(json in any_json()) {
        let text = json.to_string();
        if let Err(error) = Spec::parse(&name("a"), 1, &text) {
            prop_assert_eq!(error.kind, Kind::BadSpec);
        }
        if let Err(error) = ClusterDescription::parse("/c", "a", &text) {
            prop_assert_eq!(error.kind, Kind::BadSpec);
        }
    }

    #[test]
    fn any_field_value_is_accepted_or_bad_spec(
        index in any::<proptest::sample::Index>(),
        value in any_json(),
    ) {
        let mut spec = example();
        let pointers = pointers(&spec);
        let pointer = index.get(&pointers);
        *spec.pointer_mut(pointer).expect("the pointer was just made") = value;
        if let Err(error) = parse(&spec) {
            prop_assert_eq!(error.kind, Kind::BadSpec);
        }
    }

    #[test]
    fn any_text_is_a_spec_or_bad_spec(text in any::<String>(), cut in any::<proptest::sample::Index>()) {
        let example = example().to_string();
        let cut = cut.index(example.len());
        for text in [&text, &example[..cut], &format!("{}{text}{}", &example[..cut], &example[cut..])] {
            if let Err(error) = Spec::parse(&name("a"), 1, text) {
                prop_assert_eq!(error.kind, Kind::BadSpec);
            }
        }
    }

    #[test]
    fn any_json_is_a_request_or_bad_event(event in any_json()) {
        if let Err(error) = Request::parse(&event) {
            prop_assert_eq!(error.kind, Kind::BadEvent);
        }
    }
}

/// The length of the longest accepted document with this many minted versions, in the contract's spelling.
fn longest_document(form: AcceptedForm, token: usize, depth: usize) -> usize {
    let entry = |stage: &str| {
        let mut entry = json!({"version": 9_999_999_999_u64, "stage": stage});
        match form {
            AcceptedForm::Digests => entry["sha256"] = json!(Digest::of("a").to_string()),
            AcceptedForm::Plain => entry["token"] = json!("x".repeat(token)),
        }
        if stage != "current" {
            entry["not_after"] = json!("2026-11-22T08:30:00.000Z");
        }
        entry
    };
    let mut entries = vec![entry("current")];
    entries.resize(depth, entry("previous"));
    json!({"accepted": entries}).to_string().len()
}

/// A source of randomness that repeats these bytes.
struct Given(Vec<u8>);

impl TryRng for Given {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, buffer: &mut [u8]) -> Result<(), Infallible> {
        for (to, from) in buffer.iter_mut().zip(self.0.iter().cycle()) {
            *to = *from;
        }
        Ok(())
    }
}

impl TryCryptoRng for Given {}

fn mint(generation: &Generation, entropy: &[u8]) -> Secret {
    let Ok(secret) = generation.mint(&mut Given(entropy.to_vec()));
    secret
}

fn any_generation() -> impl Strategy<Value = (Generation, String, u8)> {
    (32..=64_u8, proptest::option::of("[a-z0-9]{1,16}_")).prop_map(|(bytes, prefix)| {
        let parsed = prefix.as_deref().map(|prefix| Prefix::parse(prefix).expect("it is one"));
        let generation = Generation::new(bytes, parsed).expect("so many bytes are allowed");
        (generation, prefix.unwrap_or_default(), bytes)
    })
}

fn any_place() -> impl Strategy<Value = Place> {
    let value = prop_oneof![
        any::<i64>().prop_map(KeyValue::Number),
        "\\PC{1,20}|[ \\n%,=:/0-9]{1,20}".prop_map(KeyValue::Text),
    ];
    let attributes = proptest::collection::btree_map("\\PC{1,9}|[ %,=:n]{1,9}", value, 1..=2)
        .prop_filter("publications write it", |attributes| {
            attributes.keys().all(|name| !WRITTEN_ATTRIBUTES.contains(&name.as_str()))
        });
    let item = ("[a-zA-Z0-9_.-]{3,20}", attributes).prop_map(|(table, attributes)| {
        let key = ItemKey::new(attributes.into_iter().collect()).expect("it keeps the rules");
        Place::Item { table, key }
    });
    let parameter = "(/[b-r][a-z0-9_.-]{0,8}){1,15}".prop_map(|name| {
        Place::Parameter(ParameterName::parse(&name).expect("it keeps the rules"))
    });
    prop_oneof![item, parameter]
}

/// JSON with the words of specs and events, in every wrong place.
#[expect(clippy::too_many_lines, reason = "a table")]
fn any_json() -> impl Strategy<Value = Value> {
    // Known names get past the check for unknown fields, so that their values are read too.
    let field = prop_oneof![
        proptest::sample::select(vec![
            "token",
            "bytes",
            "prefix",
            "source",
            "overlap",
            "verifiers",
            "presenters",
            "publish",
            "ssm",
            "dynamodb",
            "table",
            "key",
            "as",
            "region",
            "within",
            "workloads",
            "cluster",
            "namespace",
            "deployment",
            "external_secret",
            "secret_key",
            "picks_up",
            "settle",
            "rollout_timeout",
            "on_drift",
            "action",
            "wait",
            "eks",
            "name",
            "detail-type",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    // Known texts get past the first check of a value, and lead to the ones behind it.
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        proptest::sample::select(vec![
            "5s",
            "1h",
            "generated",
            "refuse",
            "restart",
            "plain",
            "/a/b",
            "abc",
            "rotate",
            "sweep",
            "status",
            "",
            "<aws.x>",
        ])
        .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((field.clone(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}
