//! The lease of an app: a row of `poller_leases`. [`crate::rules::lease`] decides who may take it and when.

use std::collections::BTreeMap;

use sqlx::{FromRow, Row, postgres::types::PgInterval, types::Json};

use super::{
    Store, StoreError,
    brief::Halves,
    statement::{query, query_as, query_scalar},
    transaction::{Fence, LONG, RENEWAL, SHORT, literal},
};
use crate::{
    clock,
    host::Holder,
    rules::{
        lease::{LeaseRow, TTL},
        recording::KnownLimit,
        slot::GroupKey,
    },
};

impl Store {
    /// The same store while `holder` has the lease with `epoch`: writes of the poller through it have no effect once
    /// the lease has passed to another process.
    pub fn under_lease(&self, holder: &Holder, epoch: i64) -> Self {
        let fence = Fence { sdk_app_id: self.sdk_app_id, epoch, holder: holder.to_string() };
        Self { fence: Some(fence), ..self.clone() }
    }

    /// The present lease, if there ever was one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn look_at_lease(&self) -> Result<Option<LeaseRow>, StoreError> {
        const DOING: &str = "looking up the lease holder";
        let row = || {
            query(
                "SELECT holder, epoch, expires_at, clock_timestamp() FROM receiptd.poller_leases WHERE sdk_app_id = $1",
            )
            .bind(self.app())
        };
        let asked_at = clock::uptime();
        let rows = self.read(DOING, RENEWAL, row).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let (holder, epoch, expires_at, now) =
            FromRow::from_row(row).map_err(|error| StoreError::failed(DOING, error))?;
        self.note_time(asked_at, now);
        Ok(Some(LeaseRow { holder, epoch, expires_at }))
    }

    /// Takes the lease if it is unchanged. Returns the new epoch if so.
    ///
    /// # Errors
    /// If the database fails. Then it is unknown whether the lease was taken; if so, it will turn out to be this
    /// holder's.
    pub async fn take_lease(&self, holder: &Holder, seen: Option<&LeaseRow>) -> Result<Option<i64>, StoreError> {
        let epoch = query_scalar(
            "INSERT INTO receiptd.poller_leases AS l (sdk_app_id, holder, epoch, acquired_at, expires_at)
             SELECT $1, $2, 1, clock_timestamp(), clock_timestamp() + $3
             WHERE $4 IS NULL OR EXISTS (SELECT FROM receiptd.poller_leases WHERE sdk_app_id = $1)
             ON CONFLICT (sdk_app_id) DO UPDATE SET holder = EXCLUDED.holder, epoch = l.epoch + 1,
                acquired_at = EXCLUDED.acquired_at, expires_at = EXCLUDED.expires_at
             WHERE l.epoch = $4 AND l.expires_at = $5
             RETURNING epoch",
        )
        .bind(self.app())
        .bind(holder.to_string())
        .bind(ttl())
        .bind(seen.map(|seen| seen.epoch))
        .bind(seen.map(|seen| seen.expires_at));
        self.run("taking the lease", RENEWAL, async |database| epoch.fetch_optional(database).await).await
    }

    /// Renews the lease of this store. False if it has passed to another process.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn renew_lease(&self) -> Result<bool, StoreError> {
        let expires_at = format!("expires_at = clock_timestamp() + interval '{} ms'", TTL.as_millis());
        self.change_lease("renewing the lease", &expires_at).await
    }

    /// Releases the lease, so that another process may take it immediately.
    ///
    /// # Errors
    /// If the database fails; then it ends by itself.
    pub async fn release_lease(&self) -> Result<bool, StoreError> {
        self.change_lease("releasing the lease", "expires_at = clock_timestamp(), holder = NULL").await
    }

    /// Updates the schedule to the cadences, given by name as text: marks the groups whose cadence has changed since
    /// the last call for rescheduling. Returns their number. A group locked by another session is not waited for:
    /// each of its messages follows at its next poll.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn follow_cadences(&self, cadences: BTreeMap<String, String>) -> Result<i64, StoreError> {
        const DOING: &str = "rescheduling after a change of cadences";
        let changed = query_scalar::<GroupKey>(
            "SELECT g.group_key FROM receiptd.watched_groups g,
                (SELECT cadences AS old, $2::jsonb AS new FROM receiptd.poller_leases
                 WHERE sdk_app_id = $1 AND cadences <> $2) known
             WHERE g.sdk_app_id = $1 AND g.state = 'active'
                AND coalesce(old ->> g.cadence, old ->> 'default') IS DISTINCT FROM coalesce(new ->> g.cadence, new ->> 'default')
             ORDER BY g.group_key",
        )
        .bind(self.app())
        .bind(Json(cadences.clone()));
        let changed = self.run(DOING, LONG, async |database| changed.fetch_all(database).await).await?;
        let (mut halves, mut marked) = (Halves::of(changed), 0);
        while let Some(groups) = halves.take() {
            let mark = query(
                "WITH free AS (
                    SELECT group_key FROM receiptd.watched_groups WHERE group_key = ANY ($1) AND state = 'active'
                    ORDER BY group_key FOR NO KEY UPDATE SKIP LOCKED
                )
                UPDATE receiptd.watched_groups g SET reschedule = true FROM free WHERE g.group_key = free.group_key",
            )
            .bind(groups.clone());
            match self.run_fenced(DOING, LONG, async |database| mark.execute(database).await).await {
                Ok(rows) => marked += rows.rows_affected(),
                // Like a locked one, it follows with its next polls.
                Err(error) if error.is_refusal() => halves.failed(groups),
                Err(error) => return Err(error),
            }
        }
        // Only now: if the marks were not made, they are made the next time.
        let note = query(
            "UPDATE receiptd.poller_leases SET cadences = $2 WHERE sdk_app_id = $1 AND cadences IS DISTINCT FROM $2",
        )
        .bind(self.app())
        .bind(Json(cadences));
        self.run_fenced(DOING, LONG, async |database| note.execute(database).await).await?;
        Ok(i64::try_from(marked).unwrap_or(i64::MAX))
    }

    /// Numbers of recent changes that events reported, and that only polls found.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn trust(&self) -> Result<(f64, f64), StoreError> {
        let row = query_as::<(f64, f64)>(
            "SELECT changes_told, changes_untold FROM receiptd.poller_leases WHERE sdk_app_id = $1",
        )
        .bind(self.app());
        let doing = "looking up how far webhooks are trusted";
        let row = self.run(doing, SHORT, async |database| row.fetch_optional(database).await).await?;
        Ok(row.unwrap_or_default())
    }

    /// Stores them for later terms.
    ///
    /// # Errors
    /// If the database fails, or another process has the lease.
    pub async fn store_trust(&self, (told, untold): (f64, f64)) -> Result<(), StoreError> {
        let change =
            query("UPDATE receiptd.poller_leases SET changes_told = $2, changes_untold = $3 WHERE sdk_app_id = $1")
                .bind(self.app())
                .bind(told)
                .bind(untold);
        let doing = "storing how far webhooks are trusted";
        self.run_fenced(doing, SHORT, async |database| change.execute(database).await).await.map(drop)
    }

    /// The batch limit found by a poller of this app.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn batch_limit(&self) -> Result<Option<KnownLimit>, StoreError> {
        let row = query_as::<(i32, i32)>(
            "SELECT batch_taken, batch_refused FROM receiptd.poller_leases WHERE sdk_app_id = $1 AND batch_taken IS NOT NULL",
        )
        .bind(self.app());
        let doing = "looking up the known batch limit";
        let row = self.run(doing, SHORT, async |database| row.fetch_optional(database).await).await?;
        let size = |size| usize::try_from(size).unwrap_or_default();
        Ok(row.map(|(takes, refuses)| KnownLimit { takes: size(takes), refuses: size(refuses) }))
    }

    /// Stores it for later pollers.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn store_batch_limit(&self, known: Option<KnownLimit>) -> Result<(), StoreError> {
        let size = |size| i32::try_from(size).unwrap_or(i32::MAX);
        let change =
            query("UPDATE receiptd.poller_leases SET batch_taken = $2, batch_refused = $3 WHERE sdk_app_id = $1")
                .bind(self.app())
                .bind(known.map(|known| size(known.takes)))
                .bind(known.map(|known| size(known.refuses)));
        let doing = "storing the known batch limit";
        self.run_fenced(doing, SHORT, async |database| change.execute(database).await).await.map(drop)
    }

    /// The factor by which a poller of this app stretched all intervals.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn stretch(&self) -> Result<f64, StoreError> {
        let stretch = query_scalar::<f64>("SELECT stretch FROM receiptd.poller_leases WHERE sdk_app_id = $1");
        let stretch = stretch.bind(self.app());
        let doing = "looking up the stretch of intervals";
        let stretch = self.run(doing, SHORT, async |database| stretch.fetch_optional(database).await).await?;
        Ok(stretch.unwrap_or(1.0))
    }

    /// Stores it for later pollers, and for commands.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn store_stretch(&self, stretch: f64) -> Result<(), StoreError> {
        let change = query("UPDATE receiptd.poller_leases SET stretch = $2 WHERE sdk_app_id = $1");
        let change = change.bind(self.app()).bind(stretch);
        let doing = "storing the stretch of intervals";
        self.run_fenced(doing, SHORT, async |database| change.execute(database).await).await.map(drop)
    }

    /// Changes the lease of this store. False if it has passed to another process.
    async fn change_lease(&self, doing: &'static str, change: &str) -> Result<bool, StoreError> {
        let Some(Fence { sdk_app_id, epoch, holder }) = &self.fence else { return Ok(false) };
        let holder = literal(holder);
        let statement = format!(
            "UPDATE receiptd.poller_leases SET {change}
             WHERE sdk_app_id = {sdk_app_id} AND epoch = {epoch} AND holder = {holder} RETURNING clock_timestamp()"
        );
        let asked_at = clock::uptime();
        let Some(row) = self.connections.at_once(doing, RENEWAL, &statement).await? else { return Ok(false) };
        self.note_time(asked_at, row.try_get(0).map_err(|error| StoreError::failed(doing, error))?);
        Ok(true)
    }
}

fn ttl() -> PgInterval {
    PgInterval::try_from(TTL).unwrap_or_default()
}
