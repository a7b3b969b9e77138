//! A value that may be a little old. The kernel's caches hold names, attributes and pages; all that is cached
//! here is what the kernel asks for every time, such as the free space that `df` and installers want.

use std::future::Future;
use std::time::{Duration, Instant};

/// The last answer and when it was asked for.
#[derive(Debug)]
pub(crate) struct Aged<T> {
    last: tokio::sync::Mutex<Option<(Instant, T)>>,
    age_max: Duration,
}

impl<T: Clone> Aged<T> {
    pub(crate) fn new(age_max: Duration) -> Aged<T> {
        Aged { last: tokio::sync::Mutex::new(None), age_max }
    }

    /// The last answer if it is young enough, else a new one. Those who ask meanwhile share it; a failure is
    /// not kept.
    pub(crate) async fn get<E>(&self, ask: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut last = self.last.lock().await;
        if let Some((asked, value)) = last.as_ref()
            && asked.elapsed() < self.age_max
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
        let aged = Aged::new(Duration::from_secs(60));
        assert_eq!(aged.get(async { Err::<u32, _>("down") }).await, Err("down"));
        assert_eq!(aged.get(async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(aged.get(async { Ok::<_, &str>(2) }).await, Ok(1));
    }

    #[tokio::test]
    async fn an_old_answer_is_asked_for_again() {
        let aged = Aged::new(Duration::ZERO);
        assert_eq!(aged.get(async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(aged.get(async { Ok::<_, &str>(2) }).await, Ok(2));
    }
}
