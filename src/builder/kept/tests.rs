use super::*;

const EACH: u64 = 1000;

fn open(folder: &Path) -> KeptLogs {
    let bounds = Bounds {
        each: EACH,
        number: 3,
        bytes: 10_000,
    };
    KeptLogs::open(folder.to_owned(), bounds).expect("a folder")
}

fn app(id: &str) -> AppId {
    id.parse().expect("an app")
}

fn built(at: i64) -> State {
    let image = BuiltImage {
        image_ref: "i:1".to_owned(),
        image_id: "sha256:1".to_owned(),
    };
    State::Ended(Ok(image), at)
}

fn texts(log: &EndedLog) -> Vec<&str> {
    log.lines.iter().map(|line| line.text.as_str()).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let name = |entry: io::Result<fs::DirEntry>| {
        let name = entry.expect("an entry").file_name();
        name.into_string().expect("text")
    };
    entries.map(name).collect()
}

#[test]
fn a_log_is_read_as_it_was_written_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("logs");
    let (logs, of) = (open(&folder), app("acme/a.b"));
    let (good, bad) = (BuildId::generate(), BuildId::generate());
    let (log, writer) = (Log::new(1 << 20), logs.begin(good, &of));
    log.line("one");
    writer.catch_up(&log);
    log.line("tw\u{1b}o");
    assert_eq!(logs.app_of(good), None, "it runs");
    assert_eq!(writer.end(&log, &built(7)), End::Kept);
    let failed = Failure::new(Reason::BuildTimeout, "too slow");
    let writer = logs.begin(bad, &of);
    let failed = State::Ended(Err(failed), 8);
    assert_eq!(writer.end(&Log::new(1), &failed), End::Kept);

    for logs in [logs, open(&folder)] {
        assert_eq!(logs.app_of(good).as_ref(), Some(&of));
        let read = logs.read(good, of.clone()).expect("there");
        assert_eq!(texts(&read), ["one", "tw\u{1b}o"]);
        assert!(matches!(&read.state, State::Ended(Ok(image), 7) if image.image_ref == "i:1"));
        let read = logs.read(bad, of.clone()).expect("there");
        let State::Ended(Err(failure), 8) = read.state else {
            panic!("{read:?}");
        };
        assert_eq!(
            (failure.reason, &*failure.message),
            (Reason::BuildTimeout, "too slow")
        );
    }
}

#[test]
fn a_build_that_the_platform_did_not_survive_has_its_lines_and_an_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let (of, id) = (app("acme/app"), BuildId::generate());
    let (log, writer) = (Log::new(1 << 20), open(dir.path()).begin(id, &of));
    log.line("one");
    writer.catch_up(&log);
    // Killed in the middle of a line.
    let name = dir.path().join(file_name(id, &of, OPEN));
    let mut file = OpenOptions::new().append(true).open(name).expect("open");
    file.write_all(b"{\"at\":1,\"li").expect("written");

    fs::write(dir.path().join("new-left"), "half").expect("written");

    let logs = open(dir.path());
    let read = logs.read(id, of.clone()).expect("there");
    assert_eq!(texts(&read), ["one"]);
    let State::Ended(Err(failure), at) = read.state else {
        panic!("{read:?}");
    };
    assert_eq!(failure.reason, Reason::ShuttingDown);
    assert!(at > 0);
    assert_eq!(files(dir.path()), [file_name(id, &of, ENDED)]);
}

#[test]
fn a_log_is_bounded_while_it_is_written_and_after() {
    let dir = tempfile::tempdir().expect("a folder");
    let (logs, of, id) = (open(dir.path()), app("acme/app"), BuildId::generate());
    let (log, writer) = (Log::new(1 << 20), logs.begin(id, &of));
    let size = |end| {
        let path = dir.path().join(file_name(id, &of, end));
        fs::metadata(path).expect("there").len()
    };
    for n in 0..500 {
        // Escaped, it is three times as long.
        log.line(format!("{n}\u{1}\u{1}"));
        writer.catch_up(&log);
        assert!(size(OPEN) <= 2 * EACH);
    }
    assert_eq!(writer.end(&log, &built(7)), End::Kept);
    assert!(size(ENDED) <= EACH + 100, "{}", size(ENDED));
    let read = logs.read(id, of).expect("there");
    assert_eq!(texts(&read).last(), Some(&"499\u{1}\u{1}"));
    assert!(read.lines.len() > 10);
}

#[test]
fn the_logs_of_a_deleted_app_go_and_those_of_its_builds_that_run_when_they_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let (logs, gone, other) = (open(dir.path()), app("acme/gone"), app("acme/other"));
    // Ids of one millisecond have no order.
    let mut now = 0;
    let mut end = |of: &AppId| {
        now += 1;
        let id = BuildId(ulid::Ulid::from_parts(now, 0));
        let ended = logs.begin(id, of).end(&Log::new(1), &built(1));
        assert_eq!(ended, End::Kept);
        id
    };
    let (first, stays) = (end(&gone), end(&other));
    let running = logs.begin(BuildId::generate(), &gone);
    logs.forget(&gone);
    assert_eq!(logs.app_of(first), None);
    assert_eq!(running.end(&Log::new(1), &built(1)), End::Forgotten);
    assert_eq!(files(dir.path()), [file_name(stays, &other, ENDED)]);
    // A number is kept in all, the newest.
    let more: Vec<_> = (0..4).map(|_| end(&other)).collect();
    let left: Vec<_> = more.iter().filter_map(|id| logs.app_of(*id)).collect();
    assert_eq!((left.len(), logs.app_of(stays)), (3, None));
    assert_eq!(files(dir.path()).len(), 3);
}
