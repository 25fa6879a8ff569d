//! Asks who has read messages whose counts have changed, in groups with readers on.
//!
//! The database knows what is due, so a restart loses nothing. Accounts are kept only until they are stored, and never
//! logged.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use tokio::{
    task::{Id, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    config::Readers,
    daemon::other_calls::OtherCalls,
    domain::SdkAppId,
    logging::log_throttle::LogThrottle,
    rules::{
        protocol::others::GetReaders,
        readers::{Asking, Page, failing::retry_after, pseudonym::Naming},
    },
    store::{Asked, AskingLimits, DueList, ListKey, NewReaders, RefusedList, Store, StoreError, hash_of},
};

/// Maximum number of messages in progress, more than the limit of calls needs at any usual latency.
const IN_FLIGHT: usize = 100;

/// How often answers are stored and due messages are looked up, while there are any.
const STEP: Duration = Duration::from_millis(200);

/// How often due messages are looked up otherwise.
const IDLE_STEP: Duration = Duration::from_secs(1);

/// How often the backlog is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Delay after a list without an end.
const AFTER_ENDLESS: TimeDelta = TimeDelta::hours(1);

/// Delay after the tables refused something, if even that could not be noted in the database.
const AFTER_UNNOTED: Duration = Duration::from_secs(60);

/// Maximum number of these messages in memory. When it is reached, no more are asked for until some delays are over.
const MOST_UNNOTED: usize = 1_000;

/// Maximum time for answers in flight to arrive at the end of a session.
const GRACE: Duration = Duration::from_secs(5);

/// Asks for readers during a session.
#[derive(Debug)]
pub(crate) struct ReaderAsking {
    store: Store,
    calls: Arc<OtherCalls>,
    naming: Arc<Naming>,
    limits: AskingLimits,
    app: SdkAppId,
    in_flight: JoinSet<Option<Asked>>,
    busy: HashMap<Id, ListKey>,
    /// Answers that are not stored yet.
    unstored: Vec<Asked>,
    /// Messages whose refusal by the tables could not be noted in the database, and the end of their wait.
    unnoted: HashMap<ListKey, Instant>,
    refused: LogThrottle,
    trouble: LogThrottle,
    /// Whether members may be stored by the configured naming.
    may_name: bool,
    misnamed: LogThrottle,
    measured_at: Option<Instant>,
}

impl ReaderAsking {
    /// `kept` is how long readers are kept.
    pub fn new(
        store: Store,
        calls: Arc<OtherCalls>,
        readers: &Readers,
        kept: Option<TimeDelta>,
        app: SdkAppId,
    ) -> Self {
        Self {
            store,
            calls,
            naming: readers.naming.clone().into(),
            limits: AskingLimits { every: readers.reader_cadence, kept },
            app,
            in_flight: JoinSet::new(),
            busy: HashMap::new(),
            unstored: vec![],
            unnoted: HashMap::new(),
            refused: LogThrottle::default(),
            trouble: LogThrottle::default(),
            may_name: false,
            misnamed: LogThrottle::default(),
            measured_at: None,
        }
    }

    /// Asks until the session is over, and then stores the remaining answers.
    pub async fn run(mut self, session_over: CancellationToken) {
        while !session_over.is_cancelled() {
            let wait = match self.step().await {
                Ok(()) if self.busy.is_empty() => IDLE_STEP,
                Ok(()) => STEP,
                Err(error) => {
                    error.log(&mut self.trouble, "readers can't be looked up or stored: trying again");
                    IDLE_STEP
                }
            };
            session_over.run_until_cancelled(sleep(wait)).await;
        }
        let rest = async {
            while self.in_flight.join_next().await.map(|ended| self.unstored.extend(ended.ok().flatten())).is_some() {}
        };
        _ = tokio::time::timeout(GRACE, rest).await;
        if let Err(error) = self.write().await {
            error.log(&mut self.trouble, "readers could not be stored: they are asked for again");
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        while let Some(ended) = self.in_flight.try_join_next_with_id() {
            let (id, asked) = match ended {
                Ok((id, asked)) => (id, asked),
                Err(error) => (error.id(), None),
            };
            self.busy.remove(&id);
            self.unstored.extend(asked);
        }
        // Answers are stored before more is asked for.
        self.write().await?;
        self.unnoted.retain(|_, until| *until > Instant::now());
        let free = (IN_FLIGHT - self.busy.len()).min(MOST_UNNOTED.saturating_sub(self.unnoted.len()));
        if free > 0 {
            let not_now: Vec<ListKey> = self.busy.values().chain(self.unnoted.keys()).copied().collect();
            let due = self.store.due_readers(self.limits, &not_now, free).await?;
            if due.is_empty() || !self.may_name().await? {
                return self.measure_sometimes().await;
            }
            for due in due {
                let key = due.key;
                let asking = ask(self.store.clone(), self.calls.clone(), self.naming.clone(), self.app, due);
                self.busy.insert(self.in_flight.spawn(asking).id(), key);
            }
        }
        self.measure_sometimes().await
    }

    async fn measure_sometimes(&mut self) -> Result<(), StoreError> {
        if self.measured_at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
            self.measure().await?;
        }
        if self.trouble.is_over() {
            tracing::info!("readers are looked up and stored again");
        }
        Ok(())
    }

    /// Whether members are stored by the configured naming only.
    async fn may_name(&mut self) -> Result<bool, StoreError> {
        if !self.may_name {
            self.may_name = self.store.names_members(&self.naming.fingerprint()).await?;
        }
        if !self.may_name
            && let Some(count) = self.misnamed.happened(clock::uptime())
        {
            tracing::error!(
                count,
                "readers are not asked for: members are stored by account or by pseudonyms with another key; undo the \
                 change of readers.pseudonyms or its key, or erase what is stored with `receiptd watch readers GROUP off \
                 --erase` for each group, and turn the readers on again"
            );
        }
        Ok(self.may_name)
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        if self.unstored.is_empty() {
            return Ok(());
        }
        let written = self.store.write_readers(&self.unstored).await?;
        metrics::counter!("receiptd_readers_total").increment(written.readers);
        self.unstored.clear();
        for list in written.refused {
            if !list.is_put_off {
                self.unnoted.insert(list.key, Instant::now() + AFTER_UNNOTED);
            }
            self.say_refused(list).await;
        }
        Ok(())
    }

    /// Without the database's message, which may name members.
    async fn say_refused(&mut self, RefusedList { key, sqlstate, .. }: RefusedList) {
        let Some(count) = self.refused.happened(clock::uptime()) else { return };
        let (group, seq) = (self.store.group_id(key.group_key).await.ok(), key.seq.get());
        tracing::error!(
            count,
            group,
            seq,
            sqlstate,
            "the database refuses the readers of a message: they are asked for again later; look for a trigger or \
             constraint on receiptd.message_readers or receiptd.reader_lists"
        );
    }

    async fn measure(&mut self) -> Result<(), StoreError> {
        let behind = self.store.readers_behind(self.limits).await?;
        let late = behind.since.map_or(0.0, |since| (self.store.clock().now() - since).as_seconds_f64().max(0.0));
        metrics::gauge!("receiptd_readers_behind").set(behind.lists as f64);
        metrics::gauge!("receiptd_readers_behind_seconds").set(late);
        self.measured_at = Some(Instant::now());
        Ok(())
    }
}

/// Asks for the readers of one message. `None` if the session is over first.
async fn ask(store: Store, calls: Arc<OtherCalls>, naming: Arc<Naming>, app: SdkAppId, due: DueList) -> Option<Asked> {
    let DueList { key, group_id, known, counts, failures } = due;
    let (mut asking, mut accounts, mut asked_at) = (Asking::new(known, counts), BTreeMap::new(), None);
    while let Some((side, place)) = asking.next() {
        let call = GetReaders { group: &group_id, seq: key.seq, side, place };
        let called = calls.call_timed(&call).await?;
        let page = match called.outcome {
            Ok(page) => page,
            Err(failure) => {
                let retry_at = retry_after(&failure, failures).map(|after| store.clock().now() + after);
                return Some(Asked::Failed(key, retry_at));
            }
        };
        asked_at.get_or_insert(called.called_at);
        let page = named(page, &naming, app, &mut accounts);
        if !asking.answered(page, called.called_at, called.ended_at) {
            break;
        }
    }
    let Some((found, asked_at)) = asking.found().zip(asked_at) else {
        return Some(Asked::Failed(key, Some(store.clock().now() + AFTER_ENDLESS)));
    };
    Some(Asked::Found(Box::new(NewReaders { key, because_of: counts, failures, asked_at, found, accounts })))
}

/// A page with members named as they are stored. Also collects hashes of the accounts behind pseudonyms.
fn named(page: Page, naming: &Naming, app: SdkAppId, accounts: &mut BTreeMap<crate::domain::Member, [u8; 32]>) -> Page {
    let Naming::Pseudonyms(_) = naming else { return page };
    let members = page.members.iter().filter_map(|account| {
        let member = naming.name(app, account.as_str())?;
        accounts.insert(member.clone(), hash_of(account.as_str()));
        Some(member)
    });
    Page { members: members.collect(), ..page }
}
