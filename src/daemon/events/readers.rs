//! Readers named in events: the groups whose accounts are kept, and the members to store.
//!
//! Nothing about members of other groups is kept: the listener drops it while reading an event.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{GroupId, Member, SdkAppId},
    logging::log_throttle::LogThrottle,
    rules::{readers::pseudonym::Naming, recording::ReadersTold, slot::Slot, webhooks::Members},
    store::{ListKey, Store, StoreError, ToldReader, hash_of},
};

/// How often the groups with readers on are looked up.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// The groups with readers on, as of up to a minute ago. The database decides when members are stored.
#[derive(Debug, Default)]
pub struct ReaderGroups(RwLock<HashSet<GroupId>>);

impl ReaderGroups {
    pub(crate) fn contains(&self, group: &GroupId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(group)
    }

    /// Looks up the groups.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), StoreError> {
        let groups = store.groups_with_readers().await?.into_iter().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = groups;
        Ok(())
    }
}

/// Stores the readers in events.
#[derive(Debug)]
pub(crate) struct ToldReaders {
    pub store: Store,
    pub groups: Arc<ReaderGroups>,
    /// How members are named in the database.
    pub naming: Naming,
    pub app: SdkAppId,
}

/// Readers to be stored, each once with the first moment of reading.
pub(super) type Told = BTreeMap<(ListKey, Member), ToldReader>;

impl ToldReaders {
    /// Keeps the list of groups with readers on up to date, until `stop` is cancelled.
    pub async fn follow_groups(&self, stop: &CancellationToken) {
        let mut trouble = LogThrottle::default();
        while stop.run_until_cancelled(sleep(REFRESH_EVERY)).await.is_some() {
            if let Err(error) = self.groups.refresh(&self.store).await {
                error.log(&mut trouble, "looking up which groups have readers on failed");
            }
        }
    }

    /// Adds the members who have just read a message of the slot to `told`, if its group has readers on.
    pub fn add(&self, slot: &Slot, read: ReadersTold, members: &Members, told: &mut Told) {
        if !slot.has_readers {
            return;
        }
        let key = ListKey { group_key: slot.key.group_key, seq: read.seq };
        for account in members.accounts() {
            let Some(member) = self.naming.name(self.app, account.as_str()) else { continue };
            let account = matches!(self.naming, Naming::Pseudonyms(_)).then(|| hash_of(account.as_str()));
            let reader = ToldReader { key, sent_at: read.sent_at, member: member.clone(), account, at: read.at };
            told.entry((key, member)).or_insert(reader);
        }
    }

    /// Stores readers, unless members are stored by another naming. Readers that the tables refuse are left for a later
    /// question, and delay no event.
    ///
    /// # Errors
    /// If the database fails, or the lease has passed to another process.
    pub async fn store(&self, told: Told) -> Result<(), StoreError> {
        if told.is_empty() || !self.store.names_members(&self.naming.fingerprint()).await? {
            return Ok(());
        }
        let told: Vec<ToldReader> = told.into_values().collect();
        let new = match self.store.write_told_readers(&told).await {
            // The database's message may name members, so it is not logged. The question for the group's readers logs
            // the problem.
            Err(error) if error.is_refusal() => return Ok(()),
            stored => stored?,
        };
        metrics::counter!("receiptd_readers_total").increment(new);
        Ok(())
    }
}
