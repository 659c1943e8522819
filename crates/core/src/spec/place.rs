//! Places: the parameters and items to which a view of a token is published, and their text form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::rules::{TABLE_RULE, is_name_character, is_table};

/// The place to which a view is published. Two places are equal if and only if they are the same parameter
/// or the same item.
///
/// The text form is `ssm:/a/b` or `dynamodb:table/id=service_token`. The text reads back as the same
/// place, so that it can be the key of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// The value of a parameter of Parameter Store.
    Parameter(ParameterName),
    /// Some attributes of an item of a DynamoDB table.
    Item {
        /// The table's name.
        table: String,
        /// The item's primary key.
        key: ItemKey,
    },
}

impl Place {
    /// True if its store refuses a late write. DynamoDB does so by conditional writes. Parameter Store has
    /// none.
    pub fn is_fenced(&self) -> bool {
        matches!(self, Place::Item { .. })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Parameter(name) => write!(formatter, "ssm:{name}"),
            Place::Item { table, key } => write!(formatter, "dynamodb:{table}/{key}"),
        }
    }
}

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        if let Some(name) = text.strip_prefix("ssm:") {
            return Ok(Place::Parameter(ParameterName::parse(name).map_err(NotAPlace)?));
        }
        let (table, key) = text
            .strip_prefix("dynamodb:")
            .and_then(|item| item.split_once('/'))
            .ok_or_else(|| NotAPlace("it begins with neither ssm: nor dynamodb:<table>/".into()))?;
        if !is_table(table) {
            return Err(NotAPlace(format!("its table is not {TABLE_RULE}")));
        }
        let attributes = key
            .split(',')
            .map(|attribute| {
                let (name, value) = attribute.split_once('=')?;
                Some(match name.strip_suffix(NUMBER_MARK) {
                    Some(name) => (decode(name)?, KeyValue::Number(decode(value)?.parse().ok()?)),
                    None => (decode(name)?, KeyValue::Text(decode(value)?)),
                })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| NotAPlace("its key is not <attribute>=<value>".into()))?;
        let place = Place::Item {
            table: table.to_owned(),
            key: ItemKey::new(attributes).map_err(NotAPlace)?,
        };
        // Each place has one text only, so that equal places are equal keys of a map.
        if place.to_string() == text {
            Ok(place)
        } else {
            Err(NotAPlace("its text is not the one that is written".into()))
        }
    }
}

impl TryFrom<String> for Place {
    type Error = NotAPlace;

    fn try_from(text: String) -> Result<Self, NotAPlace> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

/// The reason why a text is not a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a place: {0}")]
pub struct NotAPlace(String);

/// The full name of a parameter, such as `/coilysiren/backend/datastore-token`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterName(String);

impl ParameterName {
    /// Reads a name by Parameter Store's rules (BOTO ssm 2014-11-06, `PutParameter`). The name begins with
    /// `/`. It has at most 15 levels of `[A-Za-z0-9_.-]+` and at most 1,011 characters. It is not in the
    /// name spaces of `aws` and `ssm`.
    ///
    /// # Errors
    /// The rule that the name breaks, as a clause about "it".
    pub fn parse(name: &str) -> Result<Self, String> {
        let Some(path) = name.strip_prefix('/') else {
            return Err("it does not begin with '/'".into());
        };
        if name.len() > LONGEST_PARAMETER_NAME {
            return Err(format!(
                "it has {} characters and Parameter Store takes {LONGEST_PARAMETER_NAME}",
                name.len()
            ));
        }
        let levels: Vec<&str> = path.split('/').collect();
        if levels.iter().any(|level| level.is_empty()) {
            return Err("it has an empty level".into());
        }
        if levels.len() > MOST_LEVELS {
            return Err(format!(
                "it has {} levels and Parameter Store takes {MOST_LEVELS}",
                levels.len()
            ));
        }
        if !levels.iter().all(|level| level.chars().all(is_name_character)) {
            return Err("it has characters other than a-z, A-Z, 0-9, '_', '.', '-' and '/'".into());
        }
        let first = levels[0].to_ascii_lowercase();
        if first.starts_with("aws") || first.starts_with("ssm") {
            return Err("it begins with \"aws\" or \"ssm\", which AWS keeps for itself".into());
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if this parameter is `path`, or is anywhere below it.
    pub fn is_within(&self, path: &str) -> bool {
        self.0.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for ParameterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

const LONGEST_PARAMETER_NAME: usize = 1011;
const MOST_LEVELS: usize = 15;

/// The primary key of a DynamoDB item: one or two attributes, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey(Vec<(String, KeyValue)>);

impl ItemKey {
    /// Makes a key of these attributes, by DynamoDB's rules (BOTO dynamodb 2012-08-10): names of 1 to 255
    /// bytes, texts of 1 to 2,048 bytes. Attributes that publications write cannot be part of it.
    ///
    /// # Errors
    /// The rule that the key breaks, as a clause about "it".
    pub fn new(mut attributes: Vec<(String, KeyValue)>) -> Result<Self, String> {
        attributes.sort();
        if !(1..=2).contains(&attributes.len()) {
            return Err(format!(
                "it has {} attributes and a primary key has one or two",
                attributes.len()
            ));
        }
        if attributes.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("it names the same attribute twice".into());
        }
        for (name, value) in &attributes {
            if !(1..=LONGEST_KEY_NAME).contains(&name.len()) {
                return Err("its attribute's name does not have 1 to 255 bytes".into());
            }
            if WRITTEN_ATTRIBUTES.contains(&name.as_str()) {
                return Err(format!("its attribute \"{name}\" is one that publications write"));
            }
            if let KeyValue::Text(text) = value
                && !(1..=LONGEST_KEY_TEXT).contains(&text.len())
            {
                return Err(format!(
                    "its attribute \"{name}\" does not have 1 to {LONGEST_KEY_TEXT} bytes"
                ));
            }
        }
        Ok(Self(attributes))
    }

    /// The attributes' names and values, in the order of the names.
    pub fn attributes(&self) -> &[(String, KeyValue)] {
        &self.0
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let name = encode(name);
            match value {
                KeyValue::Text(text) => write!(formatter, "{comma}{name}={}", encode(text))?,
                KeyValue::Number(number) => {
                    write!(formatter, "{comma}{name}{NUMBER_MARK}={number}")?;
                }
            }
        }
        Ok(())
    }
}

/// The value of a key's attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyValue {
    /// A DynamoDB string (S).
    Text(String),
    /// A DynamoDB number (N). Only whole numbers are allowed, so that each has one spelling.
    Number(i64),
}

/// Every attribute that a publication writes into an item (contract, "What is published").
pub const WRITTEN_ATTRIBUTES: [&str; 8] = [
    "token",
    "token_version",
    "token_life",
    "token_revision",
    "accepted",
    "accepted_life",
    "accepted_revision",
    "changeover_token",
];

const LONGEST_KEY_NAME: usize = 255;
const LONGEST_KEY_TEXT: usize = 2048;

/// The suffix to the name of an attribute that is a number: `7` and `"7"` are different items.
const NUMBER_MARK: &str = ":n";

/// Percent-encodes the separators of a place's parts, and characters that would not print.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | ',' | '=' | ':') || c.is_whitespace() || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                encoded.push_str(&format!("%{byte:02X}"));
            }
        } else {
            encoded.push(c);
        }
    }
    encoded
}

/// The reverse of [`encode`]; `None` for text that `encode` never writes.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).ok()?;
            bytes.push(byte[0]);
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_survives_round_trip_through_text() {
        for text in [
            "ssm:/coilysiren/backend/datastore-token",
            "dynamodb:my-service-prod-config/id=service_token",
            "dynamodb:table/pk=TOKEN#datastore,sk:n=7",
            "dynamodb:table/pk:n=-7",
        ] {
            assert_eq!(text.parse::<Place>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn number_and_text_keys_are_different_places() {
        let place = |value| Place::Item {
            table: "table".into(),
            key: ItemKey::new(vec![("id".into(), value)]).expect("one attribute is a key"),
        };
        let (number, text) = (place(KeyValue::Number(7)), place(KeyValue::Text("7".into())));
        assert_ne!(number.to_string(), text.to_string());
    }

    #[test]
    fn invalid_place_text_is_refused() {
        for text in [
            "",
            "/a/b",
            "ssm:a/b",
            "ssm:/a//b",
            "dynamodb:table",
            "dynamodb:table/",
            "dynamodb:t/id=a",
            "dynamodb:table/id",
            "dynamodb:table/b=1,a=1",
            "dynamodb:table/id=a,id=b",
            "dynamodb:table/id:n=+7",
            "dynamodb:table/id:n=seven",
            "dynamodb:table/id=%",
            "dynamodb:table/id=%zz",
            "dynamodb:table/id=%61",
            "dynamodb:table/id=%ff",
            "dynamodb:table/token=a",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }

    #[test]
    fn parameter_names_follow_parameter_store_rules() {
        let deepest = "/a".repeat(MOST_LEVELS);
        let longest = format!("/{}", "a".repeat(LONGEST_PARAMETER_NAME - 1));
        for name in ["/a", "/A/b_c/d.e-f", "/a/aws", deepest.as_str(), longest.as_str()] {
            assert!(ParameterName::parse(name).is_ok(), "{name}");
        }
        let (deeper, longer) = (format!("{deepest}/a"), format!("{longest}a"));
        for name in ["", "a", "/", "/a/", "//a", "/a b", "/a:1", "/aws/a", "/SSM-a/b", "/ä"] {
            assert!(ParameterName::parse(name).is_err(), "{name}");
        }
        for name in [deeper, longer] {
            assert!(ParameterName::parse(&name).is_err(), "{name}");
        }
    }

    #[test]
    fn path_contains_itself_and_descendants_but_no_neighbour() {
        let name = ParameterName::parse("/changeover/tokens/a").expect("it keeps the rules");
        assert!(name.is_within("/changeover/tokens"));
        assert!(name.is_within("/changeover/tokens/a"));
        assert!(!name.is_within("/changeover/token"));
    }
}
