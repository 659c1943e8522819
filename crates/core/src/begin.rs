//! Before anything changes: look, refuse what could not end well, then mint.
//!
//! A mint is only ever this: generate, seal, save. Until the save stands, nobody has seen the value
//! and a crash loses nothing; once it stands, the value is decided, and every effect may run again.

use std::collections::BTreeMap;

use changeover_token::{Content, Digest, Generation, LARGEST_VALUE, Secret, Stage};

use crate::{
    error::{Error, Kind},
    finding::Severity,
    import::{Arrived, weak_edit},
    look::look,
    plan::{Ask, Deferred},
    ports::Holding,
    record::{Begin, Change, Imported, Lease, Minted, Purpose, Record, RotationId},
    report::{Outcome, Report},
    spec::{OnDrift, Place, Side, Source},
    turn::{Stop, Turn},
};

/// What began.
pub(crate) enum Begun {
    /// What was asked.
    Asked,
    /// What has to come before it.
    Before,
    /// Nothing: there is no reason to.
    Nothing(Box<Report>),
}

impl Turn<'_> {
    /// Takes the slot: adopts or creates the token's first version where it has none, takes over what
    /// somebody else wrote where that is wanted, and mints or imports a pending one for a rotation.
    pub(crate) async fn begin(&mut self, purpose: Purpose) -> Result<Begun, Stop> {
        let without = &self.without_for(purpose);
        let adopts = self.adopts();
        let mut look = look(self.world, self.spec, self.stored.as_ref(), adopts, without).await?;
        let first = self.stored.is_none();
        let refused = look.findings.iter().find(|finding| match finding.severity {
            Severity::Refusal => true,
            // Pods cannot start before the Secret exists, nor it before the first publication.
            Severity::Missing => purpose == Purpose::Rotate && look.has_current,
            Severity::Warning => false,
        });
        if let Some(finding) = refused {
            // The publications were read after the record: somebody may have moved both since.
            let now = self.world.records.load(self.asking.token, None).await?.record;
            let fence = |record: &Option<Record>| record.as_ref().map(Record::fence);
            if fence(&now) != fence(&self.stored) {
                return Err(Stop::Overtaken);
            }
            return Err(Stop::Failed(
                Error::new(
                    Kind::PreflightFailed,
                    "begin a rotation with",
                    finding.reason.clone(),
                    finding.fix.clone(),
                )
                .on(&finding.object),
            ));
        }
        self.warnings
            .extend(look.findings.iter().map(|it| format!("{}: {}", it.object, it.reason)));
        self.life = self.life.above(look.highest_life);
        if first {
            let last_version = self.record.last_version();
            self.record = Record::new(self.asking.token.clone(), self.life, self.now())
                .numbered_after(last_version);
        }

        self.found = std::mem::take(&mut look.found);
        // What presenters were given by hand comes before anything that would be published over it.
        if let Some(edited) = self.edited(look.edited.take()).await? {
            return self.take_over(edited).await;
        }
        let adopted = look.adopted.filter(|_| first);
        if let Some(bits) = adopted.as_ref().and_then(weak) {
            self.warnings.push(format!(
                "the value that is adopted has at most {bits} bits: a reader of its digest may find it \
                 by trying, until its end"
            ));
        }
        let purpose = if look.has_current { purpose } else { Purpose::Publish };
        let mut next = Next::default();
        if purpose == Purpose::Rotate || !look.has_current {
            let current = self.record.in_stage(Stage::Current).map(|current| current.sha256);
            next = self.next(current.or(adopted.as_ref().map(Secret::digest))).await?;
        }
        self.warnings.extend(next.warning.take());
        // Nothing has arrived that is not there yet, or nobody asked for more.
        let purpose = match next.value {
            None if first && adopted.is_some() => Purpose::Publish,
            None if purpose == Purpose::Rotate => return self.nothing_new(next).await,
            _ => purpose,
        };

        let mut number = self.record.next_version();
        let adopted = match adopted {
            Some(value) => {
                let held_at = held_at(&self.found, &value);
                let sealed = self.seal(number, value, held_at).await?;
                number = number.next();
                Some(sealed)
            }
            None => None,
        };
        let minted = match next.value {
            Some(value) => Some(self.seal(number, value, BTreeMap::new()).await?),
            None => None,
        };
        let id = match self.record.queued() {
            Some(queued) if minted.is_some() => queued.rotation.clone(),
            _ => RotationId(self.world.random_name()?),
        };
        let begin = Begin { adopted, minted, imported: next.imported, ..self.slot(id, purpose) };
        self.take_slot(begin).await?;
        Ok(Begun::Asked)
    }

    /// A rotation that works from this turn's spec under its lease, and changes nothing yet.
    pub(crate) fn slot(&self, id: RotationId, purpose: Purpose) -> Begin {
        let lease = Lease { holder: self.holder.clone(), until: self.now() + self.settings.lease };
        let compare_within = self.spec.looked_at_every();
        let begin = Begin::new(id, purpose, self.spec.id.clone(), lease);
        Begin { life: Some(self.life), compare_within, ..begin }
    }

    /// Saves the rotation, its version, its trigger's key and the lease, all or nothing.
    pub(crate) async fn take_slot(&mut self, begin: Begin) -> Result<(), Stop> {
        let without = self.without_for(begin.purpose);
        self.apply(Change::Begin(Box::new(begin)))?;
        self.leave_out(&without)?;
        self.refuse_what_does_not_fit().await?;
        if self.joins.is_none() {
            self.joins = self.record.rotation().map(|rotation| self.key_entry(rotation));
        }
        self.save().await
    }

    /// Whether a value that somebody else wrote becomes the next version.
    fn adopts(&self) -> bool {
        self.spec.on_drift == OnDrift::Adopt || self.asking.ask == Ask::Publish { adopt: true }
    }

    /// The value that somebody else wrote, sealed as the next version: as it is found now, else as it
    /// was kept before it was published over.
    async fn edited(&mut self, found: Option<Secret>) -> Result<Option<Minted>, Stop> {
        let Some(value) = found else { return Ok(self.record.edited().cloned()) };
        self.refuse_ended(&value).await?;
        if self.spec.on_drift == OnDrift::Adopt
            && let Some(weakness) = value.weakness(self.spec.least_bits())
        {
            return Err(Stop::Failed(weak_edit(weakness).on(self.asking.token)));
        }
        let held_at = held_at(&self.found, &value);
        Ok(Some(self.seal(self.record.next_version(), value, held_at).await?))
    }

    /// Makes a value that presenters may have already the next version. Where a rotation is asked for,
    /// that is saved to follow.
    async fn take_over(&mut self, edited: Minted) -> Result<Begun, Stop> {
        // `publish` with `adopt` is planned before it is known that it mints.
        let unanswered = self.record.unanswered_until().filter(|until| *until > self.now());
        if let Some(until) = unanswered {
            let report = self.deferred(until, Deferred::Unanswered);
            return Ok(Begun::Nothing(Box::new(report)));
        }
        let id = RotationId(self.world.random_name()?);
        let mut begin =
            Begin { minted: Some(edited), is_presented: true, ..self.slot(id, Purpose::Rotate) };
        if !self.asking.ask.is_rotate() {
            self.take_slot(begin).await?;
            return Ok(Begun::Asked);
        }
        begin.queued = Some(self.follow(self.record.next_version().next())?);
        self.take_slot(begin).await?;
        Ok(Begun::Before)
    }

    /// The value that the next version is to have. `current` is the digest of the one before.
    async fn next(&mut self, current: Option<Digest>) -> Result<Next, Stop> {
        let inbox = match &self.spec.source {
            Source::Inbox { parameter, .. } => parameter,
            // Whoever only looks asks for no new value.
            Source::Generated
                if self.asking.ask == Ask::Resume && self.record.queued().is_none() =>
            {
                return Ok(Next::default());
            }
            Source::Generated => {
                let value = self.spec.generation.mint(&mut self.world.random())?;
                return Ok(Next { value: Some(value), ..Next::default() });
            }
        };
        match self.arrived(inbox, current).await? {
            Arrived::New(value, arrival) => Ok(Next {
                warning: weak(&value).map(|bits| {
                    format!("the value that arrived in {inbox} has at most {bits} bits")
                }),
                value: Some(value),
                imported: Some(Imported { arrival, refused: None }),
            }),
            Arrived::Same(arrival) => Ok(Next {
                imported: Some(Imported { arrival, refused: None }),
                warning: Some(format!("{inbox} holds the value that is current")),
                value: None,
            }),
            Arrived::Nothing if current.is_none() => Err(Stop::Failed(
                Error::new(
                    Kind::PreflightFailed,
                    "import the first value from",
                    "nothing has arrived there",
                    "put the value there as a SecureString; the rotation then begins by itself if \
                     changes of the inbox are sent on, else invoke again",
                )
                .on(inbox),
            )),
            Arrived::Nothing => Ok(Next {
                warning: Some(format!("nothing new has arrived in {inbox}")),
                ..Next::default()
            }),
        }
    }

    /// Notes what was looked at, and that nothing is to follow.
    async fn nothing_new(&mut self, next: Next) -> Result<Begun, Stop> {
        if let Some(imported) = next.imported {
            self.apply(Change::Imported(imported))?;
        }
        if self.record.queued().is_some() {
            self.apply(Change::Queue(None))?;
        }
        if self.stored.as_ref() != Some(&self.record) {
            self.save().await?;
        }
        Ok(Begun::Nothing(Box::new(self.report(Outcome::Unchanged))))
    }

    /// An accepted document that no parameter takes would be found out after the mint, when it can
    /// only be dropped again.
    async fn refuse_what_does_not_fit(&mut self) -> Result<(), Error> {
        // The current version gets an end once presenters have left it.
        let ends_at = Some(self.now() + self.spec.overlap);
        let mut accepted = self.content(Side::Verifiers).await?;
        if let Content::Accepted { entries, .. } = &mut accepted {
            let replaced = entries.iter_mut().skip(1);
            replaced.for_each(|entry| entry.not_after = entry.not_after.or(ends_at));
        }
        for publication in &self.spec.verifiers.publications {
            let bytes = accepted.bytes(publication.form).expose().len();
            if !publication.place.is_fenced() && bytes > LARGEST_VALUE {
                return Err(Error::new(
                    Kind::TooLarge,
                    "publish the accepted tokens to",
                    format!(
                        "they take {bytes} bytes, and a parameter {LARGEST_VALUE}, whatever its tier"
                    ),
                    "publish digests, shorten the overlap, or rotate less often",
                )
                .on(&publication.place));
            }
        }
        Ok(())
    }
}

/// Where the next version's value comes from.
#[derive(Default)]
struct Next {
    /// `None` where there is no reason for a next version.
    value: Option<Secret>,
    /// What was taken from the inbox.
    imported: Option<Imported>,
    /// Why there is no value.
    warning: Option<String>,
}

/// The bits of a value that has fewer than those that changeover makes.
fn weak(value: &Secret) -> Option<u16> {
    let bits = value.bits();
    (bits < u16::from(*Generation::BYTES.start()) * 8).then_some(bits)
}

/// Which version of which parameter holds this value.
fn held_at(found: &BTreeMap<Place, Holding>, value: &Secret) -> BTreeMap<String, u64> {
    let digest = value.digest();
    let holds = |place: &Place, holding: &Holding| {
        matches!(place, Place::Parameter(_)) && holding.value.digest() == digest
    };
    let parameters = found.iter().filter(|(place, holding)| holds(place, holding));
    parameters.map(|(place, holding)| (place.to_string(), holding.store_version)).collect()
}
