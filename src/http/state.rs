//! The state that all requests share.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

use super::{auth::Token, look::Look};
use crate::{
    daemon::status::DaemonStatus,
    store::{PageData, Store},
};

/// The state of the HTTP side.
#[derive(Clone)]
pub struct Ops {
    /// The store of the page and `/readyz`, with its own connection.
    pub store: Store,
    /// The status of the terms.
    pub term: Arc<DaemonStatus>,
    /// The required token.
    pub token: Token,
    /// The metrics of this process.
    pub metrics: PrometheusHandle,
    /// Results of the latest database queries.
    pub looks: Arc<Looks>,
}

/// Maximum age of expensive responses, which are shared by all requests within this time.
const RENDER_EVERY: Duration = Duration::from_millis(100);

/// Minimum time between database queries, however many clients look.
const ASK_PAGE_EVERY: Duration = Duration::from_secs(5);

/// Minimum time between database queries, however many clients ask.
const ASK_READINESS_EVERY: Duration = Duration::from_secs(1);

/// The page's data from the database, or the error.
pub(super) type Found = Result<Arc<PageData>, String>;

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Check {
    pub ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The latest shared results: the metrics and the page as sent, the page's data from the database, and for `/readyz`
/// the checks of the database and its schema.
#[derive(Debug)]
pub struct Looks {
    pub(super) metrics: Look<Bytes>,
    pub(super) document: Look<Bytes>,
    pub(super) page: Look<Found>,
    pub(super) readiness: Look<(Check, Check)>,
}

impl Default for Looks {
    fn default() -> Self {
        let rendered = || Look::new(RENDER_EVERY);
        Self {
            metrics: rendered(),
            document: rendered(),
            page: Look::new(ASK_PAGE_EVERY),
            readiness: Look::new(ASK_READINESS_EVERY),
        }
    }
}
