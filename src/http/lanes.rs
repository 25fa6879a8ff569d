//! Connections of the HTTP side: how many may be open at once, and which one is displaced by a new one.
//!
//! There are three rooms, so that one kind of client can't keep out another: remote clients without the token, local
//! clients without it, and clients with it. When a room is full, a new connection displaces the oldest. So a client
//! that sends its whole request at once is answered, even while others send half-finished requests as fast as they
//! can. No room ever waits, and none holds more connections than its size.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio_util::sync::CancellationToken;

/// Maximum number of connections in each room of the HTTP side.
pub(crate) const LANE: usize = 32;

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Another machine, without the token.
    Remote,
    /// This machine, without the token.
    Local,
    /// Any machine, with the token.
    Trusted,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Maximum number of connections in each room.
    size: usize,
    /// The name of the metric that counts displaced connections.
    metric: &'static str,
    /// In the order of entering their room.
    seats: Mutex<Vec<Taken>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    client: Client,
    displaced: CancellationToken,
}

/// The place of a connection, which is freed when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    rooms: Arc<Lanes>,
    number: u64,
    displaced: CancellationToken,
}

impl Lanes {
    /// Rooms for `size` connections each. `metric` counts displaced ones.
    pub fn new(size: usize, metric: &'static str) -> Self {
        Self { size, metric, seats: Mutex::default(), next: AtomicU64::default() }
    }

    /// A seat for a new connection. If the room is full, its oldest connection loses its seat.
    pub fn enter(self: &Arc<Self>, client: Client) -> Seat {
        let displaced = CancellationToken::new();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.take(&mut self.seats(), Taken { number, client, displaced: displaced.clone() });
        Seat { rooms: self.clone(), number, displaced }
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, seats: &mut Vec<Taken>, seat: Taken) {
        let in_room = |taken: &Taken| taken.client == seat.client;
        if seats.iter().filter(|taken| in_room(taken)).count() >= self.size
            && let Some(oldest) = seats.iter().position(in_room)
        {
            seats.remove(oldest).displaced.cancel();
            metrics::counter!(self.metric).increment(1);
        }
        seats.push(seat);
    }
}

impl Seat {
    /// The client has shown the token: from now on only clients with the token can displace it.
    pub fn trust(&self) {
        let mut seats = self.rooms.seats();
        let Some(place) = seats.iter().position(|taken| taken.number == self.number) else { return };
        if seats[place].client != Client::Trusted {
            let seat = seats.remove(place);
            self.rooms.take(&mut seats, Taken { client: Client::Trusted, ..seat });
        }
    }

    /// Returns when the connection has to close, because another one needs its seat.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.rooms.seats().retain(|taken| taken.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_displaced(seat: &Seat) -> bool {
        seat.displaced.is_cancelled()
    }

    #[test]
    fn a_full_room_closes_its_oldest_connection_and_no_other() {
        let rooms = Arc::new(Lanes::new(LANE, "displaced"));
        let local = rooms.enter(Client::Local);
        let remote: Vec<Seat> = (0..LANE).map(|_| rooms.enter(Client::Remote)).collect();
        assert!(!remote.iter().any(is_displaced));
        let newest = rooms.enter(Client::Remote);
        let displaced: Vec<bool> = remote.iter().map(is_displaced).collect();
        assert!(displaced[0] && !displaced[1..].contains(&true), "{displaced:?}");
        assert!(!is_displaced(&newest) && !is_displaced(&local));
    }

    #[test]
    fn a_connection_that_ended_leaves_its_place() {
        let rooms = Arc::new(Lanes::new(LANE, "displaced"));
        let first = rooms.enter(Client::Remote);
        (0..10 * LANE).for_each(|_| drop(rooms.enter(Client::Remote)));
        assert!(!is_displaced(&first));
    }

    #[test]
    fn a_client_with_the_token_is_displaced_by_none_without() {
        let rooms = Arc::new(Lanes::new(LANE, "displaced"));
        let trusted = rooms.enter(Client::Remote);
        trusted.trust();
        let others: Vec<Seat> = (0..3 * LANE).map(|_| rooms.enter(Client::Remote)).collect();
        assert!(!is_displaced(&trusted));
        assert_eq!(others.iter().filter(|seat| !is_displaced(seat)).count(), LANE);
        others.iter().rev().take(LANE).for_each(Seat::trust);
        assert!(is_displaced(&trusted), "others have shown it too, later");
    }

    #[test]
    fn a_displaced_connection_that_shows_the_token_comes_too_late() {
        let rooms = Arc::new(Lanes::new(LANE, "displaced"));
        let first = rooms.enter(Client::Remote);
        let _others: Vec<Seat> = (0..LANE).map(|_| rooms.enter(Client::Remote)).collect();
        first.trust();
        assert!(is_displaced(&first));
        assert_eq!(rooms.seats().len(), LANE);
    }
}
