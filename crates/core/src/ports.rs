//! Ports: what a rotation needs from its environment, as one trait per role, with one error for all.
//!
//! The core makes decisions as data and hands them to these ports. Nothing above this module names an SDK.
//! Adapters decide nothing: they translate, set time-outs, retry what may be retried within the time they
//! are given, and name what they could not do. Each port method documents a crash before it and after it,
//! since every call may be the last one of an invocation.
//!
//! ```text
//! Specs         specs of the tokens          SSM parameters, read only
//! Inboxes       values issued elsewhere      SSM SecureStrings, read only
//! RecordStore   the authoritative records    DynamoDB item per token, values sealed with KMS
//! Publications  the places readers read      SSM SecureStrings, attributes of DynamoDB items
//! Clusters      what a cluster is            EKS, Kubernetes
//! SecretCopies  copies of views              External Secrets, Secrets
//! Workloads     pods that are replaced       Deployments, StatefulSets, DaemonSets
//! Pipeline      jobs that need an answer     CodePipeline
//! Invocations   further invocations          the function itself, by Lambda's API
//! Subscribers   receivers of events          EventBridge
//! Meter         receiver of measurements     CloudWatch, out of the log
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use changeover_token::{Content, Digest, Fence, Sealed, Secret, TokenName, VersionNumber};
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    clock::Clock,
    error::Error,
    finding::{Examination, Finding, Subject},
    job_result::JobResult,
    metrics::MetricPoint,
    record::{Audit, Failing, Held, KeyDigest, KeyEntry, Loaded, Record, SecretRevision},
    spec::{ParameterName, Place, Publication, Side, Workload},
    token_event::TokenEvent,
};

/// Everything outside the function, as one value that is made at the edge and passed down.
pub struct Ports {
    /// Specs of tokens.
    pub specs: Arc<dyn Specs>,
    /// The inboxes, for values that are issued elsewhere.
    pub inboxes: Arc<dyn Inboxes>,
    /// Records of tokens.
    pub records: Arc<dyn RecordStore>,
    /// The places that readers read.
    pub publications: Arc<dyn Publications>,
    /// The clusters that run the readers.
    pub clusters: Arc<dyn Clusters>,
    /// The Secrets that copy views for them.
    pub copies: Arc<dyn SecretCopies>,
    /// Their workloads.
    pub workloads: Arc<dyn Workloads>,
    /// The pipelines that wait for an answer.
    pub pipeline: Arc<dyn Pipeline>,
    /// Further invocations of this function.
    pub invocations: Arc<dyn Invocations>,
    /// The subscribers to events about tokens; `None` if there are none.
    pub event_publisher: Option<Arc<dyn EventPublisher>>,
    /// The sink for measurements.
    pub metrics_sink: Arc<dyn MetricsSink>,
    /// Returns the number of requests that were sent to AWS so far, repeated ones included.
    pub calls: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The current time, and waiting.
    pub clock: Clock,
    /// Fills a buffer from the operating system's random generator.
    pub random_source: RandomSource,
}

/// Fills a buffer with random bytes.
pub type RandomSource = Arc<dyn Fn(&mut [u8]) -> Result<(), Error> + Send + Sync>;

/// The store of the specs of tokens. Reading has no effect: a crash means nothing.
#[async_trait]
pub trait Specs: Send + Sync {
    /// Returns the text of a token's spec with the version of its parameter; `None` if there is none.
    async fn spec(&self, token: &TokenName) -> Result<Option<SpecText>, Error>;

    /// Returns every spec, in order of name, or the reason that it cannot be read. A parameter whose last
    /// path segment is not a token name is ignored. Paginated internally; at most 10,000.
    async fn all(&self) -> Result<Vec<(TokenName, Result<SpecText, Error>)>, Error>;
}

/// The text of a spec, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecText {
    /// The version of the parameter that holds it.
    pub version: i64,
    /// The time at which the parameter was written.
    pub modified_at: Option<Timestamp>,
    /// The text, which is JSON.
    pub json: String,
}

/// The inboxes, for values that are issued elsewhere. Reading has no effect: a crash means nothing.
#[async_trait]
pub trait Inboxes: Send + Sync {
    /// Returns the content of an inbox; `None` if the parameter does not exist.
    async fn read(&self, inbox: &ParameterName) -> Result<Option<InboxValue>, Error>;
}

/// A value that arrived in an inbox.
#[derive(Clone, Debug)]
pub struct InboxValue {
    /// The value, as it was put there.
    pub value: Secret,
    /// True if the parameter is a SecureString.
    pub is_secure: bool,
    /// The version of the parameter.
    pub version: u64,
    /// The time at which that version was written.
    pub written_at: Timestamp,
}

/// One record per token, fenced by its life and revision. The keys of triggers and the audit are kept
/// beside it.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// Returns the record of a token, and what an idempotency key resolved to, read consistently in one
    /// call. An expired key reads as absent, even if it was not deleted yet.
    async fn load(&self, token: &TokenName, key: Option<&KeyDigest>) -> Result<Loaded, Error>;

    /// Saves a record if it still has the fence that it was loaded with, together with the key of a trigger
    /// and entries of the audit, all or nothing. The stored revision is `save.record.revision()`. It must
    /// be above that of `save.replaces`.
    ///
    /// A crash before it: nothing is changed. A crash after it: the record is saved, and the next
    /// invocation that reads it resumes. A lost reply is resolved by a write id kept in the item, and
    /// reported as [`Saved::Saved`].
    async fn save(&self, save: Save<'_>) -> Result<Saved, Error>;

    /// Adds the key of a trigger that joins the rotation in progress, if the record still has
    /// this fence. The key resolves to `entry` from then on.
    async fn join(
        &self,
        token: &TokenName,
        fence: Fence,
        key: &KeyDigest,
        entry: &KeyEntry,
    ) -> Result<Saved, Error>;

    /// Moves the time at which the record is due, if it still has this fence, without giving it a new
    /// revision. It is the heartbeat of an invocation that watches a cluster.
    async fn heartbeat(
        &self,
        token: &TokenName,
        fence: Fence,
        due_at: Timestamp,
    ) -> Result<Saved, Error>;

    /// Counts a run of this token that failed with `error`, and moves the time at which its record is due
    /// by [`Failing::due_at`]. It reads and writes attributes beside the record only, so it works for a
    /// record that cannot be read. The write is conditional on the attributes that were read. Returns
    /// `None` if the token was no longer due: another invocation saved, or there is no record.
    ///
    /// A crash before the write: the token stays due. A crash after it: the token is due after the
    /// back-off. If the reply of the write is lost, the SDK's second attempt returns `None`.
    async fn back_off(
        &self,
        token: &TokenName,
        error: &Error,
        now: Timestamp,
        latest: Option<Timestamp>,
    ) -> Result<Option<Failing>, Error>;

    /// Ends a record if it still has this fence. Only the number of its last version is kept:
    /// [`Loaded::last_version`]. Keys of triggers and the audit stay.
    ///
    /// A crash before it: nothing is changed. A crash after it: there is no record. A lost reply is
    /// resolved in the same way as that of [`RecordStore::save`].
    async fn forget(
        &self,
        token: &TokenName,
        fence: Fence,
        last_version: VersionNumber,
    ) -> Result<Saved, Error>;

    /// Returns the tokens whose record was due at `now` and whose last run did not fail, the longest
    /// overdue first, at most `limit`. Eventually consistent: the record must be read again before acting
    /// on it.
    async fn due(&self, now: Timestamp, limit: usize)
    -> Result<Vec<(TokenName, Timestamp)>, Error>;

    /// Returns the tokens whose last run failed, with the time of their next one, the earliest first, at
    /// most `limit`. Eventually consistent.
    async fn failing(&self, limit: usize) -> Result<Vec<(TokenName, Timestamp)>, Error>;

    /// Returns the permanent audit entry of a version; `None` if there is none yet.
    async fn audit(
        &self,
        token: &TokenName,
        version: VersionNumber,
    ) -> Result<Option<Audit>, Error>;

    /// Returns the newest version whose audit has a value of this digest, among the last thousand audits. A
    /// version has an audit from when presenters were on it, or from its end.
    async fn version_of(
        &self,
        token: &TokenName,
        sha256: &Digest,
    ) -> Result<Option<VersionNumber>, Error>;

    /// Seals a value for the record, bound to the scope, the token and the version.
    async fn seal(
        &self,
        token: &TokenName,
        version: VersionNumber,
        value: &Secret,
    ) -> Result<Sealed, Error>;

    /// Opens what [`RecordStore::seal`] sealed for the same token and version. Anything else is
    /// `BadRecord`.
    async fn open(
        &self,
        token: &TokenName,
        version: VersionNumber,
        sealed: &Sealed,
    ) -> Result<Secret, Error>;
}

/// One conditional write.
#[derive(Clone, Copy, Debug)]
pub struct Save<'a> {
    /// The fence that the stored record must have. If `None`, there must be no record.
    pub replaces: Option<Fence>,
    /// The record to store.
    pub record: &'a Record,
    /// The trigger's key, which must be new.
    pub key: Option<(&'a KeyDigest, &'a KeyEntry)>,
    /// Entries of the audit to write or overwrite, each one whole.
    pub audit: &'a [Audit],
}

/// Result of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Saved {
    /// The write was applied.
    Saved,
    /// Another invocation saved first: read again.
    Overtaken,
}

/// The places that presenters and verifiers read.
#[async_trait]
pub trait Publications: Send + Sync {
    /// Returns what a place holds for this side, read consistently if the store can; `None` if it holds
    /// nothing. Has no effect.
    async fn read(&self, place: &Place, side: Side) -> Result<Option<StoredValue>, Error>;

    /// Returns the storage settings of a place; `None` if it has none, or holds nothing. Has no effect.
    async fn describe(&self, place: &Place) -> Result<Option<Described>, Error>;

    /// Writes one view whole. On a fenced store ([`Place::is_fenced`]) the write is refused with
    /// [`WriteError::ahead`] if the place carries a later fence of this view.
    ///
    /// A crash before it: readers see the view before. A crash after it: readers see this view,
    /// and writing the same view again changes nothing that they see. It returns within ten
    /// seconds.
    async fn write(
        &self,
        publication: &Publication,
        known_key: Option<&str>,
        view: &Content,
    ) -> Result<Written, WriteError>;

    /// Puts a label on the version of a parameter, and takes it from the version that had it. Does nothing
    /// for a place without labels. A crash before it: the label is not moved. A crash after it: doing it
    /// again changes nothing.
    async fn label(
        &self,
        place: &Place,
        label: &'static str,
        store_version: u64,
    ) -> Result<Written, WriteError>;

    /// Returns the version of a parameter that a label is on; `None` if it is on none, or the place has no
    /// labels. Has no effect.
    async fn labelled(&self, place: &Place, label: &'static str) -> Result<Option<u64>, Error>;
}

/// Storage settings of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The KMS key that encrypts its content, by the name that its last write gave.
    pub key: Option<String>,
    /// The time at which its policy deletes it, in the words of that policy.
    pub deleted_at: Option<String>,
}

/// Content of a place.
#[derive(Clone, Debug)]
pub struct StoredValue {
    /// The bare token, or the accepted document in the bytes of [`Content::bytes`].
    pub value: Secret,
    /// SSM: the version of the parameter. DynamoDB: the revision of the view, or 0 if it has none.
    pub store_version: u64,
    /// DynamoDB: the fence of the view. A parameter has none beside its value.
    pub fence: Option<Fence>,
    /// DynamoDB: the token that the item belongs to, if the item names one.
    pub token: Option<TokenName>,
}

impl StoredValue {
    /// Returns the fence of what a side reads there: the item's, or that of the accepted document. A
    /// presented token in a parameter has none.
    pub fn fence_of(&self, side: Side) -> Option<Fence> {
        if self.fence.is_some() || side == Side::Presenters {
            return self.fence;
        }
        Fence::of_document(self.value.expose())
    }
}

/// A write that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// SSM: the version that the parameter got. DynamoDB: the revision of the view.
    pub store_version: u64,
    /// SSM: the KMS key that the value was encrypted with.
    pub key: Option<String>,
    /// True if the reply of an earlier attempt of this call was lost, so that the earlier attempt may still
    /// be applied, late. Always false on a fenced store.
    pub unanswered: bool,
}

/// A write that failed, or was not answered.
#[derive(Debug)]
pub struct WriteError {
    /// The error to report.
    pub error: Error,
    /// True if the write, or an attempt of it, may still be applied. Always false on a fenced store.
    pub unanswered: bool,
    /// The later fence of this view that the place carries: nothing was written.
    pub ahead: Option<Fence>,
    /// True if the version of a parameter that was to be labelled does not exist: it was deleted, or pushed
    /// out by a hundred newer ones. Labels are where they were.
    pub is_gone: bool,
}

/// The clusters that run verifiers and presenters: their descriptions, and what would stand in the way of a rotation
/// there. Nothing here has an effect.
#[async_trait]
pub trait Clusters: Send + Sync {
    /// Returns what each of these names refers to now: the digest of the cluster's description as it is
    /// written, or of nothing if it has none. A name is absent if its description could not be read. A
    /// connection to a cluster whose description changed is not used again. One read per cluster; no effect
    /// outside.
    async fn describe(&self, clusters: &BTreeSet<String>) -> BTreeMap<String, Digest>;

    /// Returns what keeps this workload from ever picking up a view: objects that do not exist, what can
    /// never finish, and what admission would refuse. Makes two reads, and a dry run of each change that a
    /// rotation makes; no effect.
    async fn inspect(&self, subject: &Subject<'_>) -> Result<Vec<Finding>, Error>;

    /// Examines everything in the clusters that a rotation depends on which these workloads follow: what
    /// [`Clusters::inspect`] checks, and also rights, stores and neighbours. `published` are the parameters
    /// of all tokens. What could not be read is a finding too. Some twenty reads per workload, a few at a
    /// time; no effect.
    async fn examine(
        &self,
        subjects: &[Subject<'_>],
        published: &BTreeSet<ParameterName>,
    ) -> Examination;
}

/// The Secrets that copy views for workloads. Every wait is by watch, lasts at most `within`, and then
/// answers [`Progress::UnderWay`]: waiting is a return value.
#[async_trait]
pub trait SecretCopies: Send + Sync {
    /// Forces the External Secret of each workload, or the ClusterExternalSecret that keeps it, to refresh, by
    /// setting its `force-sync` annotation to a new value that begins with `force`. Waits until each has
    /// synced since, and its Secret's data is one of `intended`: the digest of the bytes that each parameter
    /// of this side was given. A copy that several of them read is forced once; one that synced something
    /// else is forced again. Ends with the first that is stuck or cannot be read, and returns what is known
    /// of the others. The workloads are of one namespace of one cluster, and the results are in their order.
    /// `None` if what the spec names does not exist.
    ///
    /// A crash at any time means at most some more refreshes, which are harmless.
    async fn refresh(
        &self,
        workloads: &[&Workload],
        force: &str,
        intended: &BTreeMap<ParameterName, Digest>,
        within: Duration,
    ) -> Vec<Result<Option<Progress<SecretRevision>>, Error>>;

    /// Writes the bytes of a side's view under the key of the Secret that this workload's spec names, and
    /// the view's fence beside it. Creates the Secret if there is none, and does not change its other keys.
    /// A Secret that has this fence and these bytes is not changed. One that has a later fence is not
    /// changed either, and is [`Progress::Ahead`]. One that External Secrets or another token must write is
    /// [`Progress::Stuck`].
    ///
    /// A crash before it: pods that start read the view before. A crash after it: they read this one,
    /// and writing it again changes nothing. A write that arrives late, after another one, changes
    /// nothing either.
    async fn write_secret(
        &self,
        workload: &Workload,
        stamp: &Stamp,
        value: &Secret,
    ) -> Result<Progress<SecretRevision>, Error>;

    /// Returns the revision of those keys of this workload's Secret that hold copies of these parameters,
    /// or of the key that is written; `None` if the Secret does not exist. No effect.
    async fn secret_revision(
        &self,
        workload: &Workload,
        parameters: &[ParameterName],
    ) -> Result<Option<SecretRevision>, Error>;

    /// Returns the digest of what the key of a Secret that changeover writes holds; `None` if there is no
    /// such key, or the workload names none. No effect.
    async fn written_secret(&self, workload: &Workload) -> Result<Option<Digest>, Error>;

    /// Returns the field managers that own a Secret's data or the External Secret that writes it, newest
    /// first, to report who keeps changing it. No effect.
    async fn editors(&self, workload: &Workload) -> Result<Vec<String>, Error>;
}

/// The workloads whose pods are replaced. Every wait is by watch, lasts at most `within`, and then
/// answers [`Progress::UnderWay`]: waiting is a return value.
#[async_trait]
pub trait Workloads: Send + Sync {
    /// Stamps the pod template of a workload, so that its pods are replaced. A template that has this stamp
    /// is not changed: [`Progress::Done`]. One that has a later stamp is not changed either, and it proves
    /// nothing: [`Progress::Ahead`]. An earlier stamp is replaced, whatever its numbers. `None` if the
    /// workload does not exist. A crash after it: the rollout continues by itself.
    async fn stamp(
        &self,
        workload: &Workload,
        stamp: &Stamp,
    ) -> Result<Option<Progress<()>>, Error>;

    /// Waits until each of these workloads is rolled out by kubectl's rule for its kind, and no pod of it
    /// is left with another stamp than this one, Terminating ones included. The workloads are of one
    /// namespace of one cluster, and the results are in their order. No effect.
    async fn rolled_out(
        &self,
        workloads: &[&Workload],
        stamp: &Stamp,
        within: Duration,
    ) -> Vec<Result<Progress<()>, Error>>;
}

/// State of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// It is complete.
    Done(T),
    /// Not yet; names what is awaited.
    UnderWay(String),
    /// It cannot complete without help.
    Stuck(Held),
    /// The object carries this later fence of the view, and was not changed. The fence proves nothing:
    /// another invocation was first, the record was restored, or another record writes there.
    Ahead(Fence),
}

/// A stamp, `verifier.changeover.dev/<token>: "<life>.<revision>"`, on a pod template, or on a Secret that
/// is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The side whose view it is for.
    pub side: Side,
    /// The token.
    pub token: TokenName,
    /// The fence of that side's view. It only grows.
    pub fence: Fence,
}

/// The pipelines that wait for jobs to be answered.
#[async_trait]
pub trait Pipeline: Send + Sync {
    /// Answers a job. One that was answered already, or is no longer waited for, counts as answered. A
    /// crash before it: the job waits, until the next attempt of the same invocation or its time-out. A
    /// crash after it: it is answered.
    async fn answer(&self, job: &str, job_result: &JobResult) -> Result<(), Error>;
}

/// Further invocations of this function, whose results are not waited for.
#[async_trait]
pub trait Invocations: Send + Sync {
    /// Starts one with this event. `function` is the ARN, with its alias, whose settings it runs under: an
    /// invocation passes the one that invoked it itself.
    ///
    /// A crash before it: none is started. A crash after it, or a lost reply: one is, or two are.
    async fn start(&self, function: &str, event: &Value) -> Result<(), Error>;
}

/// The subscribers to events about tokens.
#[async_trait]
pub trait EventPublisher: Send + Sync {
    /// Publishes the events of a save, in this order as far as it can be kept. Called after the save.
    ///
    /// A crash before it: the events are not published, and are not made up for. A crash after it: they are
    /// published. An event whose reply was lost may arrive twice, and late.
    async fn publish(&self, token_events: &[TokenEvent]) -> Result<(), EventsLost>;
}

/// Events that may not have arrived.
#[derive(Debug)]
pub struct EventsLost {
    /// The number of events.
    pub count: usize,
    /// The reason.
    pub error: Error,
}

/// The sink for measurements.
pub trait MetricsSink: Send + Sync {
    /// Writes a measurement. Nothing waits for it and nothing depends on it: one that is lost with a crash
    /// is a point that a chart lacks, and one that is written again is there twice.
    fn write(&self, measurement: &MetricPoint);
}
