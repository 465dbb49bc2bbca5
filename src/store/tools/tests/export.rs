//! Exports of a whole store, and of a store that is damaged in part.

use super::*;

#[tokio::test]
async fn an_export_has_every_app_and_execution_with_request_and_result() {
    let bench = Bench::new().await;
    let (mut apps, mut found) = (Vec::new(), Vec::new());
    let problems = export::<()>(bench.path(), &mut |item| {
        match item {
            Exported::App(app) => apps.push(app),
            Exported::Execution(e) => found.push(e),
        }
        Ok(())
    });
    assert!(problems.expect("goes on").is_empty());
    assert_eq!(apps.len(), 1);
    assert_eq!(*apps[0], full_app(ROW));
    let ids: Vec<_> = found.iter().map(|e| e.record.identity.id).collect();
    assert_eq!(
        ids,
        [bench.large, bench.small, bench.running, bench.pending]
    );
    let stands: Vec<_> = found.iter().map(|e| e.record.state.status).collect();
    use Status::{Completed, Pending, Running};
    assert_eq!(stands, [Completed, Completed, Running, Pending]);
    let bodies: Vec<_> = found
        .iter()
        .map(|e| e.body.as_ref().map(Bytes::len))
        .collect();
    assert_eq!(bodies, [Some(INLINE_BYTES + 1), Some(2), Some(1), Some(1)]);
    let result = |record: &Record| record.result.as_ref().map(|(_, body)| body.len());
    assert_eq!(result(&found[0].record), Some(INLINE_BYTES * 2));
    assert_eq!(result(&found[1].record), Some(3));
    assert_eq!(
        (found[1].method.as_str(), found[1].target.as_str()),
        ("POST", "/x?y")
    );

    // An error of `each` ends the export; unreadable items are reported, and the rest is exported.
    assert_eq!(
        export(bench.path(), &mut |_| Err("enough")).err(),
        Some("enough")
    );
    let files = bench.segment().join("files");
    fs::remove_file(files.join(format!("{}.1.result", bench.large.0))).expect("removes");
    bench.write(
        &bench.segment().join("rows"),
        &key(0x02, bench.small),
        Some(b"\xff"),
    );
    let mut n = 0;
    let problems = export::<()>(bench.path(), &mut |_| {
        n += 1;
        Ok(())
    });
    assert_eq!((n, problems.expect("goes on").len()), (4, 2));
}

#[tokio::test]
async fn a_segment_that_cannot_be_opened_is_told_of_and_the_others_are_read() {
    let bench = Bench::new().await;
    let rows = bench.segment().join("rows");
    fs::write(rows.join("db"), vec![0x5a; 700_000]).expect("writes");
    let said = bench.problems(1);
    assert!(
        said.contains(&rows.display().to_string()) && said.contains("backup"),
        "{said}"
    );
    let names: Vec<_> = check(bench.path())
        .databases
        .into_iter()
        .map(|d| d.name)
        .collect();
    assert_eq!(names, ["catalog", "code", "statistics"]);
    assert_eq!(compact(bench.path()).expect("compacts").left.len(), 1);
    let app_created_at: AppCreatedAt = Arc::new(|_| Some(0));
    let refused = Executions::open(bench.path(), config(), app_created_at)
        .err()
        .expect("refused");
    assert!(
        refused.to_string().contains(&rows.display().to_string()),
        "{refused}"
    );

    let bench = Bench::new().await;
    for newer in ["store", "executions/stats"] {
        let format = crate::store::db::FORMAT_KEY;
        bench.write(
            &bench.path().join(newer),
            format,
            Some(&9_u32.to_be_bytes()),
        );
    }
    let said = bench.problems(2);
    assert!(
        said.contains("format 9") && said.contains("newer ignite"),
        "{said}"
    );
}
