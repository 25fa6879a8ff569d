//! The state according to the database alone, for `receiptd status` and the page.

use serde::Serialize;

use super::{
    Store, StoreError, Watched,
    statement::{query_as, query_scalar},
    transaction::{LONG, SHORT},
};
use crate::{domain::Timestamp, rules::retention};

/// The state of an app.
#[derive(Debug, Clone, Serialize)]
pub struct Overview {
    /// The lease holder, if there is one.
    pub holder: Option<String>,
    /// Time since which it polls.
    pub polling_since: Option<Timestamp>,
    /// The epoch of the lease.
    pub epoch: Option<i64>,
    /// Watched groups and messages.
    pub watched: Watched,
    /// Number of new messages that are not on the schedule yet.
    pub unslotted: i64,
    /// Number of due calls that have not been made.
    pub overdue_calls: i64,
    /// When the most overdue of them was due.
    pub overdue_since: Option<Timestamp>,
    /// Attempts of the last ten minutes, by class.
    pub calls: Vec<(String, i64)>,
    /// When the last of them was made.
    pub last_call_at: Option<Timestamp>,
    /// Factor by which all intervals are longer, since more is due than the limit allows; 1 while everything fits.
    pub stretch: f64,
    /// The service's batch limit, if it has refused more.
    pub batch_taken: Option<i32>,
    /// The end of the roll-up.
    pub rolled_up_until: Option<Timestamp>,
    /// Number of days from today on with partitions.
    pub partition_runway_days: usize,
    /// Number of rows refused by the tables.
    pub set_aside: i64,
    /// Number of hours of groups that could not be rolled up.
    pub passed_over: i64,
    /// Other apps with active groups in this database that no receiptd polls, with the number of these groups.
    pub unpolled_apps: Vec<(i64, i64)>,
    /// Cadences named by active groups of this app that its poller's configuration lacks, with the number of these
    /// groups.
    pub missing_cadences: Vec<(String, i64)>,
}

type Lease = (Option<String>, Timestamp, i64, bool, f64, Option<i32>, Option<Timestamp>);

const LEASE: &str = "
    SELECT holder, acquired_at, epoch, expires_at > clock_timestamp(), stretch, batch_taken, rolled_up_until
    FROM receiptd.poller_leases WHERE sdk_app_id = $1";

const OVERDUE: &str = "
    SELECT count(*), min(next_poll_at) FROM receiptd.poll_slots JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.state = 'active' AND next_poll_at < now()";

/// Calls of the last ten minutes.
const CALLS: &str = "
    SELECT class, count(*), max(called_at) FROM receiptd.api_calls JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND called_at > now() - interval '10 minutes' GROUP BY class ORDER BY 2 DESC";

const UNSLOTTED: &str = "
    SELECT count(*) FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.state = 'active' AND m.slot_id IS NULL AND m.closed_at IS NULL";

const SET_ASIDE: &str =
    "SELECT (SELECT count(*) FROM receiptd.set_aside), (SELECT count(*) FROM receiptd.rollup_passed_over)";

const MISSING_CADENCES: &str = "
    SELECT g.cadence, count(*) FROM receiptd.watched_groups g JOIN receiptd.poller_leases l USING (sdk_app_id)
    WHERE sdk_app_id = $1 AND g.state = 'active' AND l.cadences <> '{}' AND NOT l.cadences ? g.cadence
    GROUP BY 1 ORDER BY 1";

impl Store {
    /// Reads the state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn overview(&self) -> Result<Overview, StoreError> {
        const DOING: &str = "reading the status";
        let lease = query_as::<Lease>(LEASE).bind(self.app());
        let overdue = query_as(OVERDUE).bind(self.app());
        let calls = query_as::<(String, i64, Timestamp)>(CALLS).bind(self.app());
        let unslotted = query_scalar(UNSLOTTED).bind(self.app());
        let set_aside = query_as::<(i64, i64)>(SET_ASIDE);
        let missing_cadences = query_as(MISSING_CADENCES).bind(self.app());
        let (lease, (overdue_calls, overdue_since), unslotted, calls, (set_aside, passed_over), missing_cadences) =
            self.run(DOING, SHORT, async |database| {
                let lease = lease.fetch_optional(&mut *database).await?;
                let overdue = overdue.fetch_one(&mut *database).await?;
                let unslotted = unslotted.fetch_one(&mut *database).await?;
                let calls = calls.fetch_all(&mut *database).await?;
                let set_aside = set_aside.fetch_one(&mut *database).await?;
                Ok((lease, overdue, unslotted, calls, set_aside, missing_cadences.fetch_all(database).await?))
            })
            .await?;
        let held = lease.as_ref().filter(|(holder, _, _, is_held, ..)| *is_held && holder.is_some());
        Ok(Overview {
            holder: held.and_then(|(holder, ..)| holder.clone()),
            polling_since: held.map(|(_, since, ..)| *since),
            epoch: lease.as_ref().map(|(_, _, epoch, ..)| *epoch),
            watched: self.count_watched().await?,
            unslotted,
            overdue_calls,
            overdue_since,
            last_call_at: calls.iter().map(|(_, _, last)| *last).max(),
            calls: calls.into_iter().map(|(class, count, _)| (class, count)).collect(),
            stretch: lease.as_ref().map_or(1.0, |(.., stretch, _, _)| *stretch),
            batch_taken: lease.as_ref().and_then(|(.., taken, _)| *taken),
            rolled_up_until: lease.and_then(|(.., until)| until),
            partition_runway_days: retention::runway(&self.partitions().await?, self.now().await?.date_naive()),
            set_aside,
            passed_over,
            unpolled_apps: self.unpolled_apps().await?,
            missing_cadences,
        })
    }

    /// Other apps with active groups in this database that no receiptd polls.
    async fn unpolled_apps(&self) -> Result<Vec<(i64, i64)>, StoreError> {
        let apps = query_as(
            "SELECT g.sdk_app_id, count(*) FROM receiptd.watched_groups g LEFT JOIN receiptd.poller_leases l USING (sdk_app_id)
             WHERE sdk_app_id <> $1 AND g.state = 'active'
                AND (l.holder IS NULL OR l.expires_at < clock_timestamp())
             GROUP BY 1 ORDER BY 1 LIMIT 10",
        )
        .bind(self.app());
        self.run("looking for apps without a poller", LONG, async |database| apps.fetch_all(database).await).await
    }
}
