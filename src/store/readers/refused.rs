//! Lists that the tables refuse, for example because of an owner's trigger. They are found by halving and postponed;
//! the others are stored. The database's messages about them may name members, and are not passed on.

use super::{Asked, ListKey};
use crate::{
    rules::readers::failing::repeated_after,
    store::{Store, StoreError},
};

/// The answers that were stored, and those that were not.
#[derive(Debug, Default)]
pub struct Written {
    /// Number of new readers.
    pub readers: u64,
    /// The lists that the tables refuse.
    pub refused: Vec<RefusedList>,
}

/// A list that the tables refuse.
#[derive(Debug)]
pub struct RefusedList {
    /// The message.
    pub key: ListKey,
    /// The SQLSTATE of the refusal.
    pub sqlstate: Option<String>,
    /// Whether the time of the next try is stored. If not, that was refused too, and the list is still due.
    pub is_put_off: bool,
}

impl Store {
    /// Stores the results of asking, except those that the tables refuse, which are due again later.
    ///
    /// # Errors
    /// If the database fails, or the lease has passed to another process. All of it may be stored again then.
    pub async fn write_readers(&self, asked: &[Asked]) -> Result<Written, StoreError> {
        let (mut written, mut parts) = (Written::default(), vec![asked]);
        while let Some(part) = parts.pop() {
            let refusal = match self.write_together(part).await {
                Ok(readers) => {
                    written.readers += readers;
                    continue;
                }
                Err(error) if error.is_refusal() => error,
                Err(error) => return Err(error),
            };
            match part {
                [] => return Err(refusal),
                [list] => written.refused.push(self.put_off(list, &refusal).await?),
                _ => {
                    let (first, rest) = part.split_at(part.len() / 2);
                    parts.extend([rest, first]);
                }
            }
        }
        Ok(written)
    }

    async fn put_off(&self, list: &Asked, refusal: &StoreError) -> Result<RefusedList, StoreError> {
        let (key, is_put_off) = match list {
            Asked::Found(new) => {
                let retry_at = self.clock.now() + repeated_after(new.failures);
                match self.write_together(&[Asked::Failed(new.key, Some(retry_at))]).await {
                    Ok(_) => (new.key, true),
                    Err(error) if error.is_refusal() => (new.key, false),
                    Err(error) => return Err(error),
                }
            }
            Asked::Failed(key, _) => (*key, false),
        };
        Ok(RefusedList { key, sqlstate: refusal.sqlstate(), is_put_off })
    }
}
