//! The message of a panic, kept to be repeated below a long log: whoever sees only the end of the
//! output would not learn what failed.

use std::{
    cell::RefCell,
    panic::{set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on keeps the last message of each thread that panics.
pub(crate) fn remember() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |panic| {
            LAST.with(|last| *last.borrow_mut() = panic.to_string());
            usual(panic);
        }));
    });
}

/// Why this thread panicked; empty when it did not.
pub(crate) fn last() -> String {
    LAST.with(|last| last.borrow().clone())
}
