//! Specs: what a token is and where it lives.
//!
//! [`Spec::parse`] is the only way to a [`Spec`]. What is said in the parameter is first read into raw
//! shapes and then resolved, so that whoever holds a spec holds one that can be carried out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use changeover_token::{AcceptedForm, Generation, LARGEST_VALUE, TokenName};
use serde::{Deserialize, Serialize};

use crate::error::Error;

mod cluster;
mod identity;
mod place;
mod raw;
mod resolve;
mod rules;

pub use cluster::{ApiServer, ClusterDescription, EksCluster};
pub use identity::SpecId;
pub use place::{ItemKey, KeyValue, NotAPlace, ParameterName, Place, WRITTEN_ATTRIBUTES};
pub use rules::{
    LONGEST_DURATION, TABLE_RULE, duration, is_cluster, is_kms_key, is_name_character, is_table,
};

/// What a token is, where its two views are published, and what picks them up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The token's name: the last level of its parameter's name.
    pub token: TokenName,
    /// Which one it is. A record pins it.
    pub id: SpecId,
    /// Where new values come from.
    pub source: Source,
    /// How new values are made, and how strong one that is issued elsewhere has to be.
    pub generation: Generation,
    /// How long the previous version stays accepted after migrate is complete. At least 5 s.
    pub overlap: Duration,
    /// Who checks the token.
    pub verifiers: Audience,
    /// Who sends the token.
    pub presenters: Audience,
    /// How long a workload may take to roll, from its stamp, in each leg.
    pub rollout_timeout: Duration,
    /// What becomes of a value that somebody else wrote to a presented publication.
    pub on_drift: OnDrift,
}

/// How often the publications of a token that owes nothing are compared with its record.
pub const COMPARE_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the values of a token come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// changeover makes them.
    Generated,
    /// They are issued elsewhere, and arrive in this SecureString: the token's inbox.
    Inbox {
        /// Its name.
        parameter: ParameterName,
        /// A value with fewer bits than this is not taken.
        least_bits: u16,
    },
}

impl Source {
    /// The fewest bits of a value that is issued elsewhere, if the spec does not say. An attacker who has a
    /// digest cannot try so many values.
    pub const LEAST_BITS: u16 = 128;
}

/// What becomes of a value that somebody else wrote to a presented publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDrift {
    /// It is told, left alone, and keeps the next rotation from beginning.
    Refuse,
    /// It is the next version.
    Adopt,
}

impl Spec {
    /// Reads the spec of `name` from the JSON in version `version` of its parameter.
    ///
    /// # Errors
    /// `BadSpec` that tells all faults together, each with its field, value and fix.
    pub fn parse(name: &TokenName, version: i64, json: &str) -> Result<Spec, Error> {
        resolve::spec(name, version, json)
    }

    /// The audience on this side; empty where the spec leaves the side out.
    pub fn side(&self, side: Side) -> &Audience {
        match side {
            Side::Verifiers => &self.verifiers,
            Side::Presenters => &self.presenters,
        }
    }

    /// The fewest bits that a value has to have which is issued elsewhere, or was written by hand and becomes
    /// a version by `on_drift`.
    pub fn least_bits(&self) -> u16 {
        match self.source {
            Source::Generated => Source::LEAST_BITS,
            Source::Inbox { least_bits, .. } => least_bits,
        }
    }

    /// The names of the clusters that its workloads run in.
    pub fn clusters(&self) -> BTreeSet<String> {
        let workloads = Side::BOTH.into_iter().flat_map(|side| &self.side(side).workloads);
        workloads.map(|workload| workload.cluster.clone()).collect()
    }

    /// How many live versions the accepted set may hold: as many minted ones as fit the smallest of
    /// its stores, at most [`Spec::DEEPEST`].
    pub fn accepted_depth(&self) -> usize {
        let parameters = self
            .verifiers
            .publications
            .iter()
            .filter(|publication| matches!(publication.place, Place::Parameter(_)));
        parameters
            .map(|publication| {
                let name = match publication.form {
                    AcceptedForm::Digests => DIGEST.len(),
                    AcceptedForm::Plain => PLAIN.len() + self.generation.length(),
                };
                // One version is current, and has no end.
                (LARGEST_VALUE - DOCUMENT.len() + END.len()) / (ENTRY.len() + name + END.len())
            })
            .fold(Self::DEEPEST, usize::min)
    }

    /// The parameter in which values arrive that are issued elsewhere.
    pub fn inbox(&self) -> Option<&ParameterName> {
        match &self.source {
            Source::Generated => None,
            Source::Inbox { parameter, .. } => Some(parameter),
        }
    }

    /// How often a token that owes nothing is looked at: daily, and each minute where somebody else
    /// may bring its next version.
    pub fn looked_at_every(&self) -> Duration {
        match (&self.source, self.on_drift) {
            (Source::Generated, OnDrift::Refuse) => COMPARE_EVERY,
            // Less than between two sweeps, so that each of them looks.
            _ => Duration::from_secs(45),
        }
    }

    /// Whether the spec leaves alone what only the function, or those who deploy it, may use: the
    /// table of records, specs, and descriptions of clusters, which hold tokens of their own.
    ///
    /// # Errors
    /// `BadSpec` that names the places.
    pub fn check_reserved(&self, reserved: &Reserved) -> Result<(), Error> {
        let is_reserved =
            |name: &ParameterName| reserved.paths.iter().any(|path| name.is_within(path));
        let written: Vec<String> = Side::BOTH
            .iter()
            .flat_map(|side| &self.side(*side).publications)
            .map(|publication| &publication.place)
            .filter(|place| match place {
                Place::Parameter(name) => is_reserved(name),
                Place::Item { table, .. } => *table == reserved.table,
            })
            .map(ToString::to_string)
            .collect();
        let uses = match (written.as_slice(), self.inbox()) {
            ([], Some(inbox)) if is_reserved(inbox) => format!("imports from {inbox}"),
            ([], _) => return Ok(()),
            (written, _) => format!("publishes to {}", written.join(" and ")),
        };
        let because = format!("it {uses}, where changeover keeps its own");
        Err(resolve::bad_spec(&self.token, self.id.version, &because))
    }

    /// The most live versions of a token, whatever its stores hold.
    pub const DEEPEST: usize = 32;
}

// The parts of an accepted document at their longest, in the spelling of the contract: ten digits are
// what the audit keeps of a version's number. Separators count as if every entry had one.
const DOCUMENT: &str =
    r#"{"accepted":[],"life":"00000000000000000000","revision":9999999999999999}"#;
const ENTRY: &str = r#"{"version":9999999999,"stage":"previous",},"#;
const DIGEST: &str =
    r#""sha256":"0000000000000000000000000000000000000000000000000000000000000000""#;
const PLAIN: &str = r#""token":"""#;
const END: &str = r#","not_after":"2026-11-22T08:30:00.000Z""#;

/// What only the function, or those who deploy it, may write. Its default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The table of records.
    pub table: String,
    /// The paths of specs and of clusters.
    pub paths: Vec<String>,
}

/// One of the two sides of a token. Each reads its own view of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Those who check the token. They read the accepted view.
    Verifiers,
    /// Those who send the token. They read the presented view.
    Presenters,
}

impl Side {
    /// Both sides, in the order in which a new version reaches them.
    pub const BOTH: [Side; 2] = [Side::Verifiers, Side::Presenters];

    /// The field of the spec: `verifiers` or `presenters`.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Verifiers => "verifiers",
            Side::Presenters => "presenters",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Everybody on one side of a token. Empty (its default) where the spec leaves the side out; otherwise
/// it has at least one publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Where the side's view is published, in the spec's order. No place stands here twice.
    pub publications: Vec<Publication>,
    /// How long a reader that is not restarted may hold its copy, counted from the last publish that
    /// was answered. Present where there are publications and no workload that restarts.
    pub within: Option<Duration>,
    /// What picks the view up, in the spec's order. No workload stands here twice.
    pub workloads: Vec<Workload>,
}

impl Audience {
    /// The form of the view in Secrets that changeover writes: that of the first publication. `None`
    /// where the spec leaves the side out.
    pub fn written_form(&self) -> Option<AcceptedForm> {
        self.publications.first().map(|publication| publication.form)
    }

    /// Whether the spec leaves this side out.
    pub fn is_empty(&self) -> bool {
        self.publications.is_empty()
    }
}

/// One place that holds a side's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Where it is.
    pub place: Place,
    /// The KMS key that encrypts the parameter. Never present for an item.
    pub key: Option<String>,
    /// How accepted tokens are written. [`AcceptedForm::Digests`], and without meaning, for presenters.
    pub form: AcceptedForm,
}

/// Something in a cluster that picks a view up. As text, `prod/backend/deployment/datastore`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workload {
    /// The cluster, by the name under which `CHANGEOVER_CLUSTERS` or EKS knows it.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// What kind of object it is.
    pub kind: WorkloadKind,
    /// The object's name.
    pub name: String,
    /// How the view comes into the Secret that the workload's pods read; `None` where they read it
    /// themselves.
    pub copy: Option<SecretCopy>,
    /// How a new view reaches its pods.
    pub picks_up: PicksUp,
    /// How long to wait between synced and stamped: a kubelet can start a pod with the Secret of a
    /// moment ago (kubernetes/kubernetes issue 129645).
    pub settle: Duration,
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, namespace, kind, name, .. } = self;
        write!(formatter, "{cluster}/{namespace}/{kind}/{name}")
    }
}

/// How a view comes into a Secret, in the namespace of the workload that reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SecretCopy {
    /// An ExternalSecret copies it from a parameter.
    ExternalSecret {
        /// Its name.
        name: String,
        /// The key of its Secret that holds the view, where it cannot be found from its `data`.
        secret_key: Option<String>,
    },
    /// The ExternalSecret that a ClusterExternalSecret keeps in the namespace copies it.
    ClusterExternalSecret {
        /// The ClusterExternalSecret's name.
        name: String,
        /// As above.
        secret_key: Option<String>,
    },
    /// changeover writes it: the bytes that a parameter of the side would hold, an accepted document
    /// in the form of the side's first publication.
    Secret {
        /// The Secret's name.
        name: String,
        /// The key that holds the view. All others are left alone.
        key: String,
    },
}

/// A key of a Secret that changeover writes. As text,
/// `key token of Secret backend/datastore-token of cluster prod`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WrittenKey<'a> {
    cluster: &'a str,
    namespace: &'a str,
    name: &'a str,
    key: &'a str,
}

impl WrittenKey<'_> {
    fn secret(&self) -> (&str, &str, &str) {
        (self.cluster, self.namespace, self.name)
    }
}

impl fmt::Display for WrittenKey<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, namespace, name, key } = self;
        write!(formatter, "key {key} of Secret {namespace}/{name} of cluster {cluster}")
    }
}

impl Workload {
    /// What brings the view into its Secret, as reports name it.
    pub fn copy_told(&self) -> String {
        match &self.copy {
            Some(copy) => format!("{copy} of {self}"),
            None => self.to_string(),
        }
    }

    /// The key of a Secret that is written for this workload; `None` where somebody else writes what
    /// its pods read.
    pub fn written_key(&self) -> Option<WrittenKey<'_>> {
        let Some(SecretCopy::Secret { name, key }) = &self.copy else { return None };
        Some(WrittenKey { cluster: &self.cluster, namespace: &self.namespace, name, key })
    }
}

impl fmt::Display for SecretCopy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretCopy::ExternalSecret { name, .. } => write!(formatter, "ExternalSecret {name}"),
            SecretCopy::ClusterExternalSecret { name, .. } => {
                write!(formatter, "ClusterExternalSecret {name}")
            }
            SecretCopy::Secret { name, .. } => write!(formatter, "Secret {name}"),
        }
    }
}

/// The kinds of workload that can be rolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
}

/// As kubectl spells it: `deployment`, `statefulset`, `daemonset`.
impl fmt::Display for WorkloadKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            WorkloadKind::Deployment => "deployment",
            WorkloadKind::StatefulSet => "statefulset",
            WorkloadKind::DaemonSet => "daemonset",
        })
    }
}

/// How a new view reaches the pods of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PicksUp {
    /// Only a new pod sees it: environment variables and subPath mounts.
    Restart,
    /// Running pods see it within this time, counted from synced.
    Within(Duration),
}

/// The error of a spec that claims what another token has.
pub(crate) fn claimed(spec: &Spec, because: &str) -> Error {
    resolve::bad_spec(&spec.token, spec.id.version, because)
}

/// Every token of these whose spec writes a place that another one's writes too, or a key of a Secret,
/// or imports from the same inbox or from a place that another one writes, with a `BadSpec` that names it
/// and both tokens. Two writers of one place would overwrite each other for ever; what is issued to two
/// tokens, or published by one, is no longer the secret of either.
pub fn conflicts(specs: &[Spec]) -> BTreeMap<TokenName, Error> {
    let mut claims: BTreeMap<Claim<'_>, BTreeMap<&TokenName, i64>> = BTreeMap::new();
    for spec in specs {
        for side in Side::BOTH {
            let Audience { publications, workloads, .. } = spec.side(side);
            let places = publications.iter().map(|publication| Claim::Place(&publication.place));
            let keys = workloads.iter().filter_map(Workload::written_key).map(Claim::Key);
            let inbox = spec.inbox().map(Claim::Inbox);
            for claim in places.chain(keys).chain(inbox) {
                claims.entry(claim).or_default().insert(&spec.token, spec.id.version);
            }
        }
    }
    let mut conflicts = BTreeMap::new();
    for (claim, tokens) in claims.into_iter().filter(|(_, tokens)| tokens.len() > 1) {
        for (token, version) in &tokens {
            let others = tokens.keys().filter(|other| *other != token);
            let others: Vec<_> = others.map(|other| format!("\"{other}\"")).collect();
            conflicts.entry((*token).clone()).or_insert_with(|| {
                resolve::bad_spec(
                    token,
                    *version,
                    &format!("it {claim}, and so does the spec of token {}", others.join(" and ")),
                )
            });
        }
    }
    for (importing, publishing, inbox) in inboxes_that_are_written(specs) {
        let (one, other) = (&importing.token, &publishing.token);
        conflicts.entry(one.clone()).or_insert_with(|| {
            let because = format!("it imports from {inbox}, where token \"{other}\" publishes");
            claimed(importing, &because)
        });
        conflicts.entry(other.clone()).or_insert_with(|| {
            claimed(publishing, &format!("it writes {inbox}, from which token \"{one}\" imports"))
        });
    }
    conflicts
}

/// The specs whose inbox is a place that another one writes, with that one.
fn inboxes_that_are_written(
    specs: &[Spec],
) -> impl Iterator<Item = (&Spec, &Spec, &ParameterName)> {
    let places = specs.iter().flat_map(|spec| {
        let of = move |side| spec.side(side).publications.iter().map(move |it| (&it.place, spec));
        Side::BOTH.into_iter().flat_map(of)
    });
    let places: BTreeMap<&ParameterName, &Spec> = places
        .filter_map(|(place, spec)| match place {
            Place::Parameter(name) => Some((name, spec)),
            Place::Item { .. } => None,
        })
        .collect();
    specs.iter().filter_map(move |spec| {
        let inbox = spec.inbox()?;
        let other = *places.get(inbox)?;
        (other.token != spec.token).then_some((spec, other, inbox))
    })
}

/// What one spec has for itself, and what it does with it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Claim<'a> {
    Place(&'a Place),
    Key(WrittenKey<'a>),
    Inbox(&'a ParameterName),
}

impl fmt::Display for Claim<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Claim::Place(place) => write!(formatter, "writes {place}"),
            Claim::Key(key) => write!(formatter, "writes {key}"),
            Claim::Inbox(inbox) => write!(formatter, "imports from {inbox}"),
        }
    }
}
