//! Watches discovered messages. This is the one place for messages from lists, histories and webhooks.

use std::collections::HashMap;

use super::{
    LONG, RefusedGroup, SHORT, Store, StoreConnection, StoreError, query_as, query_scalar,
    statements::{Counts, GroupRead, Limit, Room, add_groups, add_messages, limit, store_cursors, texts},
};
use crate::{
    domain::GroupId,
    rules::discovery::Passed,
    store::brief::{Brief, Halves},
};

/// The result of watching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watching {
    /// The groups whose reading is stored, with the number of newly watched messages.
    pub stored: Vec<(GroupId, u64)>,
    /// The groups that the tables refuse.
    pub refused: Vec<RefusedGroup>,
    /// Number of messages passed over, by reason.
    pub passed: HashMap<Passed, u64>,
}

impl Store {
    /// Watches messages of groups, and stores how far the groups are read. Messages that are or were watched are left
    /// alone, and so are groups that their owner has removed. Groups that another session has locked are left out, and
    /// so are those that the tables refuse.
    ///
    /// # Errors
    /// If the database fails for other reasons than some of the groups. Everything stored before stays.
    pub async fn watch_discovered(&self, reads: Vec<GroupRead>, mut room: Room<'_>) -> Result<Watching, StoreError> {
        let mut watching = Watching::default();
        let mut halves = Halves::of(reads);
        while let Some(mut part) = halves.take() {
            let counts = self.counts_of(&part).await?;
            part.iter_mut().for_each(|read| pass_over(read, counts.get(read.group.as_str()), room));
            match self.watch_together(&mut part, room, &counts).await {
                Ok(Brief::Done(watched)) => {
                    room.messages -= watched.values().sum::<i64>();
                    watching.add(&part, &watched);
                }
                Ok(Brief::Held | Brief::Changed) => halves.failed(part),
                Err(error) if !error.is_refusal() => return Err(error),
                Err(error) => match (reached(&error), part.as_slice()) {
                    // The app has as many messages as it may have.
                    (Some(Limit::Messages), _) if room.messages > 0 => {
                        room.messages = 0;
                        halves.again(part);
                    }
                    // It has as many groups, with this one.
                    (Some(Limit::Groups), [_]) if room.groups => {
                        room.groups = false;
                        halves.again(part);
                    }
                    (_, [read]) => watching.refused.push(RefusedGroup::of(read.group.clone(), &error)),
                    (_, _) => halves.failed(part),
                },
            }
        }
        Ok(watching)
    }

    /// Stores the readings of groups in one transaction. Of a single group, messages that are refused are passed over.
    async fn watch_together(
        &self,
        part: &mut [GroupRead],
        room: Room<'_>,
        counts: &HashMap<String, Counts>,
    ) -> Result<Brief<HashMap<String, i64>>, StoreError> {
        const DOING: &str = "watching discovered messages";
        let watched = self
            .run_briefly(DOING, SHORT, None, async |database, _| watch(database, self.app(), room, part, counts).await);
        match (watched.await, part) {
            (Err(error), [read]) if error.is_refusal() && read.found.len() > 1 => {
                self.watch_apart(DOING, read, room, counts).await
            }
            (watched, _) => watched,
        }
    }

    /// Number of discovered messages of the app that are polled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_discovered(&self) -> Result<i64, StoreError> {
        let count = query_scalar(
            "SELECT count(*) FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key)
             WHERE g.sdk_app_id = $1 AND m.state = 'active' AND m.discovered_at IS NOT NULL",
        )
        .bind(self.app());
        self.run("counting discovered messages", LONG, async |database| count.fetch_one(database).await).await
    }

    async fn counts_of(&self, reads: &[GroupRead]) -> Result<HashMap<String, Counts>, StoreError> {
        let groups: Vec<GroupId> =
            reads.iter().filter(|read| !read.found.is_empty()).map(|read| read.group.clone()).collect();
        if groups.is_empty() {
            return Ok(HashMap::new());
        }
        // Codes of active messages are in their slots.
        let counts = query_as::<Counts>(
            "SELECT g.group_id, g.state = 'removed' AS is_removed,
                (SELECT count(*) FROM receiptd.watched_messages m
                 WHERE m.group_key = g.group_key AND m.state = 'active' AND m.discovered_at IS NOT NULL) AS active,
                latest.with_receipt, latest.without_receipt
             FROM receiptd.watched_groups g CROSS JOIN LATERAL (
                SELECT count(*) FILTER (WHERE coalesce(e.code, m.receipt_code) = 0) AS with_receipt,
                    count(*) FILTER (WHERE coalesce(e.code, m.receipt_code) IN (10061, 10062)) AS without_receipt
                FROM (
                    SELECT * FROM receiptd.watched_messages m
                    WHERE m.group_key = g.group_key AND m.discovered_at IS NOT NULL ORDER BY m.msg_seq DESC LIMIT 100
                ) m
                LEFT JOIN receiptd.slot_messages e
                    ON e.group_key = m.group_key AND e.slot_id = m.slot_id AND e.msg_seq = m.msg_seq
             ) latest
             WHERE g.sdk_app_id = $1 AND g.group_id = ANY ($2)",
        )
        .bind(self.app())
        .bind(texts(&groups));
        let counts = self.run("counting messages of groups", SHORT, async |database| counts.fetch_all(database).await);
        Ok(counts.await?.into_iter().map(|counts| (counts.group_id.clone(), counts)).collect())
    }
}

/// The result for a group's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored.
    Stored,
    /// The tables refuse it.
    Refused,
    /// Its group was locked, or the database failed.
    NotStored,
}

impl Watching {
    /// The result for a group.
    pub fn of(&self, group: &GroupId) -> Outcome {
        if self.stored.iter().any(|(stored, _)| stored == group) {
            Outcome::Stored
        } else if self.refused.iter().any(|refused| refused.group == *group) {
            Outcome::Refused
        } else {
            Outcome::NotStored
        }
    }

    fn add(&mut self, reads: &[GroupRead], watched: &HashMap<String, i64>) {
        for read in reads {
            let number = watched.get(read.group.as_str()).copied().unwrap_or_default();
            self.stored.push((read.group.clone(), number.unsigned_abs()));
            read.passed.iter().for_each(|(_, why)| *self.passed.entry(*why).or_default() += 1);
        }
    }
}

fn reached(error: &StoreError) -> Option<Limit> {
    if let StoreError::Failed { source, .. } = error { limit(source) } else { None }
}

/// Takes out the messages that may not be watched. The newest messages come first, since they are the most worth
/// watching.
fn pass_over(read: &mut GroupRead, counts: Option<&Counts>, room: Room<'_>) {
    let active = counts.map_or(0, |counts| counts.active);
    let most = (room.messages_per_group - active).min(room.messages).max(0);
    let (most, why) = match counts {
        Some(counts) if counts.is_removed => (0, Passed::Removed),
        None if !room.groups => (0, Passed::Bound),
        _ => (usize::try_from(most).unwrap_or(usize::MAX), Passed::Bound),
    };
    let over = read.found.split_off(most.min(read.found.len()));
    read.passed.extend(over.iter().map(|found| (found.seq, why)));
}

/// Returns the number of watched messages by group.
async fn watch(
    connection: &mut StoreConnection,
    app: i64,
    room: Room<'_>,
    reads: &[GroupRead],
    counts: &HashMap<String, Counts>,
) -> Result<HashMap<String, i64>, sqlx::Error> {
    let mut watched = HashMap::new();
    if reads.iter().any(|read| !read.found.is_empty()) {
        add_groups(connection, app, room, reads).await?;
        watched = add_messages(connection, app, reads, counts).await?;
    }
    store_cursors(connection, app, reads, counts, &watched).await?;
    Ok(watched)
}
