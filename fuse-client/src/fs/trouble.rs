//! The log of requests that failed because of the cluster.

use rain_client::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The shortest time between two lines of the log. A dead cluster fails thousands of requests a second, and
/// one line a second is enough to see it.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Logs failures, at most one in [`LOG_INTERVAL`], with the number of those that were left out since.
#[derive(Debug)]
pub(super) struct TroubleLog {
    started: Instant,
    /// When the last line was logged, in milliseconds since `started` plus one; 0: never.
    logged: AtomicU64,
    left_out: AtomicU64,
}

impl TroubleLog {
    pub(super) fn new() -> TroubleLog {
        TroubleLog { started: Instant::now(), logged: AtomicU64::new(0), left_out: AtomicU64::new(0) }
    }

    /// Logs that doing something failed with this error, which the program sees as `errno`.
    pub(super) fn log(&self, doing: &'static str, error: &Error, errno: i32) {
        let now = self.started.elapsed().as_millis() as u64 + 1;
        let last = self.logged.load(Ordering::Relaxed);
        let due = last == 0 || now >= last + LOG_INTERVAL.as_millis() as u64;
        if due && self.logged.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let not_logged_before = self.left_out.swap(0, Ordering::Relaxed);
            tracing::warn!(doing, %error, errno, not_logged_before, "a request failed");
        } else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}
