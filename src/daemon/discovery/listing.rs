//! Lists the app's groups, a page at a time. The place is stored, so that a restart continues there.

use std::time::Duration;

use tokio::time::sleep;

use super::{AGAIN, Discoverer, Known};
use crate::{
    domain::{GroupId, GroupType},
    rules::protocol::others::{Cursor, GroupPage, ListGroups},
    store::StoreError,
};

/// Delay between the end of a list and its next reading.
const LIST_EVERY: Duration = Duration::from_secs(600);

impl Discoverer {
    /// Reads the lists of all wanted types, again and again.
    pub(super) async fn list(&self) {
        let selection = &self.parts.rules.selection;
        if !selection.needs_lists() {
            return std::future::pending().await;
        }
        loop {
            for group_type in &selection.types {
                while let Some(wait) = self.list_type(*group_type).await {
                    sleep(wait).await;
                }
            }
            self.parts.status.listed();
            sleep(LIST_EVERY).await;
        }
    }

    /// Reads the list of a type to its end. Returns how long to wait if that failed.
    async fn list_type(&self, group_type: GroupType) -> Option<Duration> {
        let mut from = match self.parts.store.group_list(group_type).await {
            Ok((from, _)) => from,
            Err(error) => return Some(self.later(&error)),
        };
        loop {
            let page = match self.parts.calls.call(&ListGroups { group_type, from }).await {
                Some(Ok(page)) => page,
                Some(Err(_)) | None => return Some(AGAIN),
            };
            match self.listed(group_type, page).await {
                Ok(Some(next)) => from = next,
                Ok(None) => return None,
                Err(error) => return Some(self.later(&error)),
            }
        }
    }

    async fn listed(&self, group_type: GroupType, page: GroupPage) -> Result<Option<Cursor>, StoreError> {
        let GroupPage { groups, next } = page;
        let mut room = self.parts.rules.groups.saturating_sub(self.groups().known.len());
        let is_wanted = |group: &GroupId| self.parts.rules.selection.refuses(group, Some(group_type)).is_none();
        let wanted: Vec<GroupId> = groups
            .into_iter()
            .filter(|group| is_wanted(group) && !self.groups().known.contains_key(group))
            .take_while(|_| {
                let has_room = room > 0;
                room = room.saturating_sub(1);
                has_room
            })
            .collect();
        let refused = self.parts.store.follow_groups(Some(group_type), &wanted).await?;
        self.parts.store.store_place(group_type, next).await?;
        self.refused(&refused);
        for group in wanted.into_iter().filter(|group| refused.iter().all(|refused| refused.group != *group)) {
            self.follow(group, Known { group_type: Some(group_type), ..Known::default() });
        }
        if self.groups().known.len() >= self.parts.rules.groups {
            self.parts.status.is_full();
        }
        Ok(next)
    }

    fn later(&self, error: &StoreError) -> Duration {
        self.failed(error);
        AGAIN
    }
}
