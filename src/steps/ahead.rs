//! What becomes of a leg that finds a later fence than its own.
//!
//! A later fence proves nothing about what is owed here. The record is read again. If it moved, another
//! invocation was first. If it did not, either the record was restored from a backup and continues above
//! what was found, or a newer record of this token writes there and the leg is held.

use crate::{
    fence::Fence,
    record::{Change, Held, Record},
    spec::Side,
    time::milliseconds,
    turn::{Stop, Turn, UnderWay},
};

impl Turn<'_> {
    /// Continues above the later fences that these objects carry, or holds the leg. What is written next is
    /// written by a record that was saved above them.
    pub(crate) async fn surpass(
        &mut self,
        side: Side,
        ahead: Vec<(String, Fence)>,
    ) -> Result<Option<UnderWay>, Stop> {
        let Some((object, found)) = ahead.into_iter().max_by_key(|(_, found)| *found) else {
            return Ok(None);
        };
        let now = self.world.records.load(self.asking.token, None).await?.record;
        if now.as_ref().map(Record::fence) != self.stored.as_ref().map(Record::fence) {
            return Err(Stop::Overtaken);
        }
        if found.life > self.record.life() {
            return Ok(Some(UnderWay::Held(self.owned_by_another(side, object, found))));
        }
        let enough = self.record.has_repeated_enough();
        self.apply(Change::Surpass(found))?;
        if !enough {
            self.warnings.push(format!(
                "{object} carries the later revision {found}: this record continues above it"
            ));
            return Ok(None);
        }
        Ok(Some(UnderWay::Held(Held::new(
            object,
            format!("it is at {found}, ahead again: another copy of this record is in use"),
            "Stop the function that uses the other copy of the table. Then run it again: the same version \
             continues.",
        ))))
    }

    /// A newer record of this token wrote to the object.
    pub(crate) fn owned_by_another(&self, side: Side, object: String, found: Fence) -> Held {
        let record = |fence: Fence| match fence.life {
            Some(life) => format!("created {} (fence {fence})", milliseconds(life.created_at())),
            None => format!("of an earlier version of changeover (fence {fence})"),
        };
        let reason = format!(
            "it belongs to another record of this token, {}; this record is older, {}",
            record(found),
            record(self.record.view(side)),
        );
        let token = self.record.token();
        let (annotation, attributes) = match side {
            Side::Verifiers => ("verifier", "`accepted_life` and `accepted_revision`"),
            Side::Presenters => ("presenter", "`token_life` and `token_revision`"),
        };
        let mark = match object.split(':').next() {
            Some("dynamodb") => format!("its attributes {attributes}"),
            Some("ssm") => "`life` and `revision` from its document".to_owned(),
            _ => format!("its annotation {annotation}.changeover.dev/{token}"),
        };
        let fix = format!(
            "If that record is gone, or this was copied from where it writes, remove {mark}. If its function \
             still runs, take this object out of one of the two specs. Then run it again: the same version \
             continues."
        );
        Held::new(object, reason, fix)
    }
}
