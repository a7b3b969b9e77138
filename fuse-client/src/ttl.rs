//! A value with a time to live. It serves answers that the kernel does not cache and asks for every time,
//! such as the free space that `df` and installers want.

use std::future::Future;
use std::time::{Duration, Instant};

/// The last answer, and when it was asked for.
#[derive(Debug)]
pub(crate) struct TtlValue<T> {
    last: tokio::sync::Mutex<Option<(Instant, T)>>,
    ttl: Duration,
}

impl<T: Clone> TtlValue<T> {
    pub(crate) fn new(ttl: Duration) -> TtlValue<T> {
        TtlValue { last: tokio::sync::Mutex::new(None), ttl }
    }

    /// The last answer if it is younger than the time to live, else a new one by `ask`. Concurrent callers
    /// share one question. A failure is returned and not kept.
    pub(crate) async fn get<E>(&self, ask: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut last = self.last.lock().await;
        if let Some((asked, value)) = last.as_ref()
            && asked.elapsed() < self.ttl
        {
            return Ok(value.clone());
        }
        let asked = Instant::now();
        let value = ask.await?;
        *last = Some((asked, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_young_answer_is_given_again_and_a_failure_is_not() {
        let value = TtlValue::new(Duration::from_secs(60));
        assert_eq!(value.get(async { Err::<u32, _>("down") }).await, Err("down"));
        assert_eq!(value.get(async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(value.get(async { Ok::<_, &str>(2) }).await, Ok(1));
    }

    #[tokio::test]
    async fn an_old_answer_is_asked_for_again() {
        let value = TtlValue::new(Duration::ZERO);
        assert_eq!(value.get(async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(value.get(async { Ok::<_, &str>(2) }).await, Ok(2));
    }
}
