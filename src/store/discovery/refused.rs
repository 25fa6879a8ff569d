//! Rows of discovery that the tables refuse, for example because of an owner's trigger. They are found by halving and
//! left out, and the rest is stored.

use std::{collections::HashMap, mem};

use sqlx::{Executor, Postgres, postgres::PgArguments, query::Query};

use super::{
    SHORT, Store, StoreConnection, StoreError,
    statements::{Counts, GroupRead, Room, add_groups, add_messages, limit, store_cursors},
};
use crate::{
    domain::GroupId,
    rules::discovery::{Found, Passed},
    store::{
        brief::{Brief, FIRE_AT_ONCE, Halves},
        sqlstate::is_refusal,
    },
};

/// The SQLSTATE of rows that another session has locked.
const LOCKED: &str = "55P03";

/// A group whose rows the tables refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedGroup {
    /// The group.
    pub group: GroupId,
    /// The SQLSTATE of the refusal.
    pub sqlstate: String,
}

impl RefusedGroup {
    pub(super) fn of(group: GroupId, error: &StoreError) -> Self {
        Self { group, sqlstate: error.sqlstate().unwrap_or_default() }
    }
}

impl Store {
    /// Writes rows of groups with one statement, or in halves if the tables refuse some. Returns the refused groups.
    pub(super) async fn write_groups_apart(
        &self,
        doing: &'static str,
        groups: &[GroupId],
        statement: impl Fn(&[GroupId]) -> Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<RefusedGroup>, StoreError> {
        let (mut refused, mut halves) = (vec![], Halves::of(groups.to_vec()));
        while let Some(part) = halves.take() {
            let write = statement(&part);
            let written = self.run_briefly(doing, SHORT, None, async |database, _| write.execute(database).await).await;
            let sqlstate = match written {
                Ok(Brief::Done(_)) => continue,
                Ok(Brief::Held | Brief::Changed) => LOCKED.to_owned(),
                Err(error) if error.is_refusal() => error.sqlstate().unwrap_or_default(),
                Err(error) => return Err(error),
            };
            if let [group] = &part[..] {
                refused.push(RefusedGroup { group: group.clone(), sqlstate });
            }
            halves.failed(part);
        }
        Ok(refused)
    }

    /// Stores the reading of a group whose messages are refused together. Messages that are refused alone are passed
    /// over. If all are, the group itself is refused.
    pub(super) async fn watch_apart(
        &self,
        doing: &'static str,
        read: &mut GroupRead,
        room: Room<'_>,
        counts: &HashMap<String, Counts>,
    ) -> Result<Brief<HashMap<String, i64>>, StoreError> {
        let mut written = read.clone();
        let watched = self.run_briefly(doing, SHORT, None, async |database, _| {
            apart(database, self.app(), room, &mut written, counts).await
        });
        let watched = watched.await?;
        if matches!(watched, Brief::Done(_)) {
            *read = written;
        }
        Ok(watched)
    }
}

async fn apart(
    connection: &mut StoreConnection,
    app: i64,
    room: Room<'_>,
    read: &mut GroupRead,
    counts: &HashMap<String, Counts>,
) -> Result<HashMap<String, i64>, sqlx::Error> {
    connection.execute(FIRE_AT_ONCE).await?;
    add_groups(connection, app, room, std::slice::from_ref(read)).await?;
    let (mut watched, mut is_any_taken, mut refusal) = (0, false, None);
    let mut halves = Halves::of(mem::take(&mut read.found));
    while let Some(found) = halves.take() {
        let part = GroupRead { found: found.clone(), ..read.clone() };
        match attempt(connection, app, &part, counts).await? {
            Ok(number) => {
                (watched, is_any_taken) = (watched + number, true);
                read.found.extend(found);
            }
            Err(error) => {
                refusal = Some(error);
                halves.failed(found);
            }
        }
    }
    if let Some(error) = refusal.filter(|_| !is_any_taken) {
        return Err(error);
    }
    read.passed.extend(halves.left.iter().map(|Found { seq, .. }| (*seq, Passed::Refused)));
    let watched = HashMap::from([(read.group.to_string(), watched)]);
    store_cursors(connection, app, std::slice::from_ref(read), counts, &watched).await?;
    Ok(watched)
}

/// Watches messages of a group under a savepoint. Returns their number, or the refusal.
async fn attempt(
    connection: &mut StoreConnection,
    app: i64,
    part: &GroupRead,
    counts: &HashMap<String, Counts>,
) -> Result<Result<i64, sqlx::Error>, sqlx::Error> {
    connection.execute("SAVEPOINT part").await?;
    let watched = match add_messages(connection, app, std::slice::from_ref(part), counts).await {
        Ok(watched) => Ok(watched.values().sum()),
        Err(error) if is_refusal(&error) && limit(&error).is_none() => {
            connection.execute("ROLLBACK TO SAVEPOINT part").await?;
            Err(error)
        }
        Err(error) => return Err(error),
    };
    connection.execute("RELEASE SAVEPOINT part").await?;
    Ok(watched)
}
