//! Keeps the message of a panic, to repeat it below a long log: the end of the output would not
//! show what failed.

use std::{
    cell::RefCell,
    panic::{set_hook, take_hook},
    sync::Once,
};

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Installs a hook that keeps the last message of each panicking thread.
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
