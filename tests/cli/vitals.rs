//! A server in which a vital task dies: it reports that, and exits with its own code.

use super::{descriptors::Client, store::Bench};

#[test]
fn a_part_that_dies_ends_the_process_with_a_code_and_its_callers_hear_of_it() {
    // Builds for production have no way to make a part panic.
    if !cfg!(debug_assertions) {
        return;
    }
    let bench = Bench::new();
    let part = "the catalog's writer";
    let mut client = Client::start_with(&bench, |serve| {
        serve.env("TEST_PANIC_IN_IGNITE", part);
    });
    let (status, why) = client.create("an-app");
    assert_eq!(status, 503, "{why}");
    assert!(why.contains(part) && why.contains("failed"), "{why}");
    assert!(!why.contains("stopping"), "{why}");
    assert_eq!(client.ended(), Some(70));
    // Confirmed writes are there, and the next start works.
    let mut client = Client::start_with(&bench, |_| {});
    assert_eq!(client.create("an-app").0, 200);
}
