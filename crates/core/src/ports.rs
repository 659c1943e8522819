//! What a rotation needs of the world: one trait a role, one error for all.
//!
//! The core decides as data and hands it to these ports; nothing above this line names an SDK.
//! Adapters are boring: they translate, time out, retry what may be retried inside the time they
//! are given, and name what they could not do. Each port method says what a crash before and after
//! it means, since every one of them may be the last thing that an invocation does.
//!
//! ```text
//! Specs         what was asked for         SSM parameters, read only
//! Inboxes       what others issued         SSM SecureStrings, read only
//! RecordStore   the one truth              DynamoDB item per token, values sealed with KMS
//! Publications  what readers see           SSM SecureStrings, attributes of DynamoDB items
//! Clusters      who runs on which view     EKS, Kubernetes, External Secrets
//! Pipeline      who else waits for it      CodePipeline
//! Invocations   who else can do it         the function itself, by Lambda's API
//! Subscribers   who is told of it           EventBridge
//! Meter         who watches how it fares   CloudWatch, out of the log
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
    metrics::Measurement,
    notice::Notice,
    record::{Audit, Failing, Held, KeyDigest, KeyEntry, Loaded, Record, SecretRevision},
    spec::{ParameterName, Place, Publication, Side, Workload},
    verdict::Verdict,
};

/// Everything outside the function, as one value that is made at the edge and passed down.
pub struct World {
    /// Specs of tokens.
    pub specs: Arc<dyn Specs>,
    /// Where values arrive that are issued elsewhere.
    pub inboxes: Arc<dyn Inboxes>,
    /// Records of tokens.
    pub records: Arc<dyn RecordStore>,
    /// The places that readers read.
    pub publications: Arc<dyn Publications>,
    /// The clusters that run the readers.
    pub clusters: Arc<dyn Clusters>,
    /// The pipelines that wait for an answer.
    pub pipeline: Arc<dyn Pipeline>,
    /// Further invocations of this function.
    pub invocations: Arc<dyn Invocations>,
    /// Whoever subscribed to what becomes of tokens; `None` where nobody did.
    pub subscribers: Option<Arc<dyn Subscribers>>,
    /// Whoever watches how the function fares.
    pub meter: Arc<dyn Meter>,
    /// How many requests were sent to AWS so far, repeated ones included.
    pub calls: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What time it is, and waiting.
    pub clock: Clock,
    /// Fills a buffer from the operating system's random generator.
    pub fill: Fill,
}

/// Fills a buffer with random bytes.
pub type Fill = Arc<dyn Fn(&mut [u8]) -> Result<(), Error> + Send + Sync>;

/// Where the specs of tokens are kept. Reading has no effect: a crash means nothing.
#[async_trait]
pub trait Specs: Send + Sync {
    /// The text of a token's spec with the version of its parameter; `None` where there is none.
    async fn spec(&self, token: &TokenName) -> Result<Option<SpecText>, Error>;

    /// Every spec there is, in order of name, with why it cannot be read where it cannot; a parameter
    /// whose last path segment is not a token name is passed over. Paginated inside; at most 10,000.
    async fn all(&self) -> Result<Vec<(TokenName, Result<SpecText, Error>)>, Error>;
}

/// A spec as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecText {
    /// Version of the parameter that holds it.
    pub version: i64,
    /// When the parameter was written.
    pub modified_at: Option<Timestamp>,
    /// JSON.
    pub json: String,
}

/// Where values arrive that are issued elsewhere. Reading has no effect: a crash means nothing.
#[async_trait]
pub trait Inboxes: Send + Sync {
    /// What an inbox holds; `None` where the parameter does not exist.
    async fn read(&self, inbox: &ParameterName) -> Result<Option<Arrival>, Error>;
}

/// A value that arrived in an inbox.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The value, as it was put there.
    pub value: Secret,
    /// Whether the parameter is a SecureString.
    pub is_secure: bool,
    /// The version of the parameter.
    pub version: u64,
    /// When that version was written.
    pub written_at: Timestamp,
}

/// One record a token, fenced by its life and revision; beside it the keys of triggers and the audit.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// The record of a token, and what an idempotency key resolved to, read consistently in one
    /// call. An expired key reads as absent, whether or not it was deleted yet.
    async fn load(&self, token: &TokenName, key: Option<&KeyDigest>) -> Result<Loaded, Error>;

    /// Saves a record if it still has the fence that it was loaded with, together with the key
    /// of a trigger and entries of the audit, all or nothing. The stored revision is
    /// `save.record.revision()`; it must be above that of `save.replaces`.
    ///
    /// A crash before it: nothing is changed. A crash after it: the record stands, and whoever
    /// reads it next carries on. A reply that was lost is found out by a write id kept in the item
    /// and reported as [`Saved::Saved`].
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

    /// Moves the time at which the record is due, if it still has this fence, without giving
    /// it a new revision: a sign of life while an invocation watches a cluster.
    async fn postpone(
        &self,
        token: &TokenName,
        fence: Fence,
        due_at: Timestamp,
    ) -> Result<Saved, Error>;

    /// Counts a run of this token that failed with `error`, and moves the time at which its record is
    /// due by [`Failing::due_at`]. It reads and writes attributes beside the record only, so it works
    /// for a record that cannot be read. The write is conditional on the attributes that were read.
    /// `None` if the token was not due any more: another invocation saved, or there is no record.
    ///
    /// A crash before the write: the token stays due. A crash after it: the token is due after the
    /// back-off. If the reply of the write is lost, the SDK's second attempt answers `None`.
    async fn back_off(
        &self,
        token: &TokenName,
        error: &Error,
        now: Timestamp,
        latest: Option<Timestamp>,
    ) -> Result<Option<Failing>, Error>;

    /// Ends a record if it still has this fence. What is left of it is the number of its last
    /// version: [`Loaded::last_version`]. Keys of triggers and the audit stay.
    ///
    /// A crash before it: nothing is changed. A crash after it: there is no record. A reply that was
    /// lost is found out as that of [`RecordStore::save`] is.
    async fn forget(
        &self,
        token: &TokenName,
        fence: Fence,
        last_version: VersionNumber,
    ) -> Result<Saved, Error>;

    /// Tokens whose record was due at `now` and whose last run did not fail, the longest overdue first,
    /// at most `limit`. Eventually consistent: reread the record before acting on it.
    async fn due(&self, now: Timestamp, limit: usize)
    -> Result<Vec<(TokenName, Timestamp)>, Error>;

    /// Tokens whose last run failed, with the time of their next one, the earliest first, at most
    /// `limit`. Eventually consistent.
    async fn failing(&self, limit: usize) -> Result<Vec<(TokenName, Timestamp)>, Error>;

    /// The permanent audit entry of a version; `None` where there is none yet.
    async fn audit(
        &self,
        token: &TokenName,
        version: VersionNumber,
    ) -> Result<Option<Audit>, Error>;

    /// The newest version whose audit tells a value of this digest; of the last thousand audits. A
    /// version has one from when presenters were on it, or from its end.
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

    /// Opens what [`RecordStore::seal`] sealed for the same token and version; anything else is
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
    /// The fence that the stored record must have; `None`: there must be no record.
    pub replaces: Option<Fence>,
    /// The record to store.
    pub record: &'a Record,
    /// The trigger's key, which must be new.
    pub key: Option<(&'a KeyDigest, &'a KeyEntry)>,
    /// Entries of the audit to write or overwrite, each one whole.
    pub audit: &'a [Audit],
}

/// How a conditional write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Saved {
    /// It stands.
    Saved,
    /// Somebody else was first: read again.
    Overtaken,
}

/// The places that presenters and verifiers read.
#[async_trait]
pub trait Publications: Send + Sync {
    /// What a place holds for this side, read consistently where the store can; `None` where it
    /// holds nothing. Has no effect.
    async fn read(&self, place: &Place, side: Side) -> Result<Option<Holding>, Error>;

    /// How a place keeps what it holds; `None` if it says nothing of that, or holds nothing. Has no effect.
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

    /// Puts a label on the version of a parameter, taking it from the version that had it. Does
    /// nothing for a place without labels. A crash before it: the label is where it was; a crash
    /// after it: doing it again changes nothing.
    async fn label(
        &self,
        place: &Place,
        label: &'static str,
        store_version: u64,
    ) -> Result<Written, WriteError>;

    /// The version of a parameter that a label is on; `None` if it is on none, or the place has no labels.
    /// Has no effect.
    async fn labelled(&self, place: &Place, label: &'static str) -> Result<Option<u64>, Error>;
}

/// How a place keeps what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The KMS key that encrypts it, by the name that its last write gave.
    pub key: Option<String>,
    /// When it is deleted by itself, in the words of its policy.
    pub deleted_at: Option<String>,
}

/// What a place holds.
#[derive(Clone, Debug)]
pub struct Holding {
    /// The bare token, or the accepted document in the bytes of [`Content::bytes`].
    pub value: Secret,
    /// SSM: the version of the parameter. DynamoDB: the revision of the view, 0 where it has none.
    pub store_version: u64,
    /// DynamoDB: the fence of the view. A parameter has none beside its value.
    pub fence: Option<Fence>,
    /// DynamoDB: whose item it is, where it says so.
    pub token: Option<TokenName>,
}

impl Holding {
    /// The fence that goes with what a side reads there: the item's, or that of the accepted document. A
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
    /// Whether the reply of an earlier attempt of this call was lost, so that this attempt may
    /// still be applied, late. Always false on a fenced store.
    pub unanswered: bool,
}

/// A write that was not answered well.
#[derive(Debug)]
pub struct WriteError {
    /// What to report.
    pub error: Error,
    /// Whether it, or an attempt of it, may still be applied. Always false on a fenced store.
    pub unanswered: bool,
    /// The later fence of this view that the place carries: nothing was written.
    pub ahead: Option<Fence>,
    /// Whether the version of a parameter that was to be labelled does not exist: it was deleted, or pushed
    /// out by a hundred newer ones. Labels are where they were.
    pub is_gone: bool,
}

/// The clusters that run verifiers and presenters. Every wait is by watch, lasts at most
/// `within`, and then answers [`Progress::UnderWay`]: waiting is a return value.
#[async_trait]
pub trait Clusters: Send + Sync {
    /// What each of these names means now: the digest of its description as it is written, or of nothing if
    /// it has none. A name is absent if that could not be read. A connection to a cluster whose
    /// description changed is not used again. One read a cluster; no effect outside.
    async fn describe(&self, clusters: &BTreeSet<String>) -> BTreeMap<String, Digest>;

    /// What stands in the way of this workload ever taking up a view: objects that do not exist, what can
    /// never finish, and what admission would refuse. Two reads, and a dry run of each change that a rotation
    /// makes; no effect.
    async fn inspect(&self, subject: &Subject<'_>) -> Result<Vec<Finding>, Error>;

    /// Looks at everything in the clusters that a rotation which these workloads follow depends on:
    /// what [`Clusters::inspect`] looks at, and beyond it rights, stores and neighbours. `published`
    /// are the parameters of all tokens. What could not be asked is a finding too. Some twenty reads
    /// a workload, a few at a time; no effect.
    async fn examine(
        &self,
        subjects: &[Subject<'_>],
        published: &BTreeSet<ParameterName>,
    ) -> Examination;

    /// Tells the External Secret of this workload, or the ClusterExternalSecret that keeps it, to
    /// refresh, by setting its `force-sync` annotation to a new value that begins with `force`, and
    /// says which version was synced before. `None` where what the spec names does not exist. A crash
    /// after it means a spare refresh, which is harmless.
    async fn force_sync(
        &self,
        workload: &Workload,
        force: &str,
    ) -> Result<Option<SyncedBefore>, Error>;

    /// Waits until each of these External Secrets has synced since it was told to, and its Secret's
    /// data is one of `intended`: the digest of the bytes that each parameter of this side was given.
    /// Ends with the first that is stuck or cannot be looked at, and what is known of the others. The
    /// workloads are of one namespace of one cluster, and so are the answers, in their order. What
    /// synced something else is told to refresh again; no other effect.
    async fn synced(
        &self,
        told: &[(&Workload, SyncedBefore)],
        intended: &BTreeMap<ParameterName, Digest>,
        within: Duration,
    ) -> Vec<Result<Progress<SecretRevision>, Error>>;

    /// Writes the bytes of a side's view under the key of the Secret that this workload's spec names,
    /// and the view's fence beside it; makes the Secret where there is none. Its other keys are left
    /// alone. A Secret that has this fence and these bytes is left as it is. One that has a later fence
    /// is left as it is, too, and is [`Progress::Ahead`]; one that External Secrets or another token has to
    /// write is [`Progress::Stuck`].
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

    /// Where the keys of this workload's Secret that hold copies of these parameters, or the one that
    /// is written, stand now; `None` where the Secret does not exist. No effect.
    async fn secret_revision(
        &self,
        workload: &Workload,
        parameters: &[ParameterName],
    ) -> Result<Option<SecretRevision>, Error>;

    /// The digest of what the key of a Secret that changeover writes holds; `None` where there is no
    /// such key, or the workload names none. No effect.
    async fn written_secret(&self, workload: &Workload) -> Result<Option<Digest>, Error>;

    /// Stamps the pod template of a workload, so that its pods are replaced. A template that has this
    /// stamp is left as it is: [`Progress::Done`]. One that has a later stamp is left as it is, too, and
    /// nothing is proved by it: [`Progress::Ahead`]. An earlier stamp is replaced, whatever its numbers.
    /// `None` if the workload does not exist. A crash after it: the rollout continues by itself.
    async fn stamp(
        &self,
        workload: &Workload,
        stamp: &Stamp,
    ) -> Result<Option<Progress<()>>, Error>;

    /// Waits until each of these workloads is rolled out by kubectl's rule for its kind, and no pod
    /// of it with another stamp than this one is left, Terminating ones included. The workloads are of
    /// one namespace of one cluster, and so are the answers, in their order. No effect.
    async fn rolled_out(
        &self,
        workloads: &[&Workload],
        stamp: &Stamp,
        within: Duration,
    ) -> Vec<Result<Progress<()>, Error>>;

    /// The field managers that own a Secret's data or the External Secret that writes it, newest
    /// first, to tell who keeps changing it. No effect.
    async fn editors(&self, workload: &Workload) -> Result<Vec<String>, Error>;
}

/// How far a wait has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// It is so.
    Done(T),
    /// Not yet; what is awaited, in words.
    UnderWay(String),
    /// It cannot become so without somebody's help.
    Stuck(Held),
    /// The object carries this later fence of the view, and was left as it is. Nothing follows from that:
    /// another invocation was first, the record was restored, or another record writes there.
    Ahead(Fence),
}

/// What an External Secret had synced when it was told to refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedBefore {
    /// Its `status.syncedResourceVersion`; empty where it never synced.
    pub synced_resource_version: String,
}

/// `verifier.changeover.dev/<token>: "<life>.<revision>"` on a pod template, or on a Secret that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Whose view it is for.
    pub side: Side,
    /// Which token.
    pub token: TokenName,
    /// The fence of that side's view: it only grows.
    pub fence: Fence,
}

/// Whoever waits for a job to be answered.
#[async_trait]
pub trait Pipeline: Send + Sync {
    /// Answers a job. One that was answered already, or is not waited for any more, counts as
    /// answered. A crash before it: the job waits, until the next try of the same invocation or its
    /// time-out. A crash after it: it is answered.
    async fn answer(&self, job: &str, verdict: &Verdict) -> Result<(), Error>;
}

/// Further invocations of this function, which nobody waits for.
#[async_trait]
pub trait Invocations: Send + Sync {
    /// Starts one with this event. `function` is the ARN, with its alias, whose settings it runs
    /// under: an invocation names the one that it came in on itself.
    ///
    /// A crash before it: none is started. A crash after it, or a lost reply: one is, or two are.
    async fn start(&self, function: &str, event: &Value) -> Result<(), Error>;
}

/// Whoever subscribed to what becomes of tokens.
#[async_trait]
pub trait Subscribers: Send + Sync {
    /// Tells them what a save made true, in this order as far as it can be kept. Called after the save.
    ///
    /// A crash before it: they are not told, and nobody makes up for it. A crash after it: they are told.
    /// A notice whose reply was lost may arrive twice, and late.
    async fn tell(&self, notices: &[Notice]) -> Result<(), Untold>;
}

/// Notices that may not have arrived.
#[derive(Debug)]
pub struct Untold {
    /// How many.
    pub count: usize,
    /// Why.
    pub error: Error,
}

/// Whoever watches how the function fares.
pub trait Meter: Send + Sync {
    /// Writes a measurement down. Nothing waits for it and nothing depends on it: one that is lost with
    /// a crash is a point that a chart lacks, and one that is written again is there twice.
    fn write(&self, measurement: &Measurement);
}
