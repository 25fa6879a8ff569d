//! The body of a call, which is only written if the call may still be made. Between the permit and the socket a
//! connection may have to be set up, and the process may stand still at any time.

use std::{
    error::Error,
    iter,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// The content of a request, requested when the connection exists and the head is written.
pub(super) struct GuardedBody<F> {
    content: Bytes,
    may_send: F,
}

/// The call may not be made any more: the connection is closed before the request is complete, so the service was not
/// called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lease was lost, so the call was not sent")]
pub struct NotSent;

impl NotSent {
    /// Whether that is why a request failed.
    pub(super) fn has_caused(error: &(dyn Error + 'static)) -> bool {
        iter::successors(Some(error), |&error| error.source()).any(|error| error.is::<Self>())
    }
}

impl<F> GuardedBody<F> {
    pub(super) fn new(content: impl Into<Bytes>, may_send: F) -> Self {
        Self { content: content.into(), may_send }
    }
}

impl<F: Fn() -> bool + Unpin> Body for GuardedBody<F> {
    type Data = Bytes;
    type Error = NotSent;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NotSent>>> {
        if self.content.is_empty() {
            return Poll::Ready(None);
        }
        let content = std::mem::take(&mut self.content);
        Poll::Ready(Some(if (self.may_send)() { Ok(Frame::data(content)) } else { Err(NotSent) }))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.len() as u64)
    }
}
