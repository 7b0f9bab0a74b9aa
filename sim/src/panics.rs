//! Panics anywhere: tasks of libraries swallow theirs, so a hook takes note of each one on the thread that a seed runs on.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    static NOTED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `body` and gives what it came to, with the message and place of every panic meanwhile. `None` if `body` itself panicked.
pub(crate) fn watch<T>(body: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let is_ours = NOTED
                .with_borrow_mut(|noted| noted.as_mut().map(|noted| noted.push(info.to_string().replace('\n', " "))).is_some());
            if !is_ours {
                before(info);
            }
        }));
    });
    NOTED.set(Some(Vec::new()));
    let result = catch_unwind(AssertUnwindSafe(body)).ok();
    (result, NOTED.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_task_that_a_library_swallows_is_noted() {
        let (result, panics) = watch(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { tokio::spawn(async { panic!("deep inside") }).await.is_err() })
        });
        assert_eq!(result, Some(true));
        assert!(panics.len() == 1 && panics[0].contains("deep inside"), "{panics:?}");
        let (result, panics) = watch(|| {
            if panics.len() == 1 {
                panic!("on top")
            }
        });
        assert!(result.is_none() && panics[0].contains("on top"));
    }
}
