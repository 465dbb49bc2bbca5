//! A disk that fills up under the executions, on a small file system of its own.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use hyper::{Method, StatusCode};
use serde_json::json;

use crate::{
    executions::{LIMIT, ended, served, submit},
    support::{contract::Via, eventually_ok, http, ignite::Ignite},
};

/// A file system in memory, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let size = format!("size={size}");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .status();
        assert!(status.expect("mount runs").success(), "only root can mount");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills the file system up to `free` bytes.
    fn fill_but(&self, free: u64) {
        let room = rustix::fs::statvfs(self.path()).expect("a file system");
        let room = room.f_bavail * room.f_frsize;
        let filler = vec![1; usize::try_from(room.saturating_sub(free)).expect("small")];
        fs::write(self.path().join("filler"), filler).expect("it fits");
    }

    fn clear(&self) {
        fs::remove_file(self.path().join("filler")).expect("it was there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let lazily = Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .stderr(Stdio::null())
            .status();
        if !lazily.is_ok_and(|s| s.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}

async fn try_submit(ignite: &Ignite, token: &str) -> http::Answer {
    let request = ignite.request(Method::POST, "/v1/ignite/app/acme/app/invoke-async");
    let body = json!({ "body": "eHh4".repeat(5000) });
    let sent = request.token(token).json(&body).send();
    sent.await.expect("an answer")
}

async fn readiness(ignite: &Ignite) -> (StatusCode, String) {
    let answer = ignite.request(Method::GET, "/readyz").send().await;
    let answer = answer.expect("an answer");
    (answer.status, answer.text().await)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system, which needs root; scripts/test.sh runs it where it can"]
async fn a_full_disk_refuses_new_work_loses_nothing_and_is_over_when_there_is_room_again() {
    let disk = SmallDisk::mount("64m");
    for (min_free, left) in [("8MiB", 4 << 20), ("0", 0)] {
        let dir = disk.path().join(format!("data-{min_free}"));
        fs::create_dir(&dir).expect("makes it");
        let builder = Ignite::builder()
            .data_dir(&dir)
            .env("IGNITE_MIN_FREE_DISK_BYTES", min_free);
        let (mut ignite, app, token) = served(builder, json!({ "max_concurrency": 1 })).await;
        let running = submit(&ignite, Via::Json, &app, &token, "/sleep/1500", b"").await;
        let mut accepted = vec![running];
        for _ in 0..5 {
            accepted.push(submit(&ignite, Via::Grpc, &app, &token, "/", b"x").await);
        }
        disk.fill_but(left);
        let refused = try_submit(&ignite, &token).await;
        assert_eq!(
            refused.status,
            StatusCode::SERVICE_UNAVAILABLE,
            "{min_free}"
        );
        assert_eq!(refused.header("x-ignite-error"), Some("STORE_UNAVAILABLE"));
        assert!(refused.text().await.contains("free disk space"));
        let (status, why) = readiness(&ignite).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{why}");
        if left > 0 {
            // Accepted executions still end.
            for id in &accepted {
                ended(&ignite, Via::Json, &token, id).await;
            }
        }
        disk.clear();
        eventually_ok(LIMIT, || async {
            let answer = try_submit(&ignite, &token).await;
            match answer.status {
                StatusCode::OK => Ok(()),
                _ => Err(answer.text().await),
            }
        })
        .await;
        let (status, why) = readiness(&ignite).await;
        assert_eq!(status, StatusCode::OK, "{why}");
        // So does an execution whose end could not be recorded without space: it runs again after a
        // restart.
        ignite.kill9();
        ignite.start().await;
        for id in &accepted {
            let done = ended(&ignite, Via::Grpc, &token, id).await;
            assert_eq!(done["status"], "EXECUTION_STATUS_COMPLETED", "{done}");
        }
        assert!(!ignite.log().contains("panicked"), "{}", ignite.log());
    }
}
