//! Where a job's end is announced, and what became of that.

use std::sync::Arc;
use std::time::SystemTime;

/// Where a job's end is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// The whole URL. Its query may be a credential.
    pub url: String,
    /// Its host, in lower case and without a port. Deliveries to one host share a limit.
    pub host: Arc<str>,
}

/// What is known of the announcement of a job's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookRecord {
    /// Where it goes.
    pub url: String,
    /// What became of it.
    pub state: WebhookState,
    /// How often a node has begun to deliver it.
    pub attempts: u32,
    /// When it is due; `None` before the job's end, and once it is delivered or given up.
    pub next_at: Option<SystemTime>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What became of the announcement of a job's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookState {
    /// It is still to be delivered.
    Pending,
    /// The receiver has accepted it.
    Delivered,
    /// It is not tried any more.
    GivenUp,
}

impl WebhookState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Delivered, Self::GivenUp];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }

    /// The state of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}
