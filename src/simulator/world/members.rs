//! The members of simulated groups: who reads a message when. They read in an order of their own for each message, at
//! the times of its curve.

use fastrand::Rng;

use super::group::{Group, seed_of_message};
use crate::domain::MsgSeq;

/// Separates the draw of a message's order of readers from those of its curve.
const ORDER_DRAW: u64 = 0x0dd5_0fa1;

/// The members who left among the first `read` readers of a message, and among the others.
pub(super) fn left_of(group: &Group, seq: MsgSeq, read: u32) -> (u32, u32) {
    if group.left.is_empty() {
        return (0, 0);
    }
    let order = order(group, seq);
    let (read, unread) = order.split_at(order.len().min(read as usize));
    let left = |numbers: &[u16]| numbers.iter().filter(|number| group.left.contains(number)).count() as u32;
    (left(read), left(unread))
}

/// The number of members of a group when a message was sent, including the sender.
pub(super) fn audience(group: &Group, seq: MsgSeq) -> u16 {
    let sent_at = group.messages.get(&seq).and_then(|message| message.sent_at);
    let later = sent_at.map_or(0, |sent_at| group.joined.iter().filter(|joined| **joined > sent_at).count());
    group.members - later as u16
}

/// The account of a member.
pub(super) fn account(group: &Group, number: u16) -> String {
    format!("member-{:08x}-{number}", group.seed as u32)
}

/// The members in the order in which they read a message.
pub(super) fn order(group: &Group, seq: MsgSeq) -> Vec<u16> {
    let mut order: Vec<u16> = (1..audience(group, seq)).collect();
    Rng::with_seed(seed_of_message(group, seq) ^ ORDER_DRAW).shuffle(&mut order);
    order
}
