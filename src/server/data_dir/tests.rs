//! Locking, wiping, and the identity of a directory, of one whose file is damaged, and of a copy.

use std::process::Command;

use super::*;
use crate::config::{default_data_dir, process_env};

fn config(path: &Path) -> Config {
    Config {
        // Nothing here needs an engine; a call to one fails.
        docker_host: Some("unix:///nowhere/docker.sock".to_owned()),
        ..Config::defaults(path.to_owned())
    }
}

async fn locked(config: &Config) -> DataDir {
    DataDir::lock(config).await.expect("it is free and whole")
}

async fn refused(config: &Config) -> String {
    let refused = DataDir::lock(config).await.err().expect("refused");
    format!("{refused:#}")
}

/// Locks a directory as a run does, remembers the run, and lets go.
async fn served(path: &Path) -> InstanceId {
    let data = locked(&config(path)).await;
    data.recorder()().expect("written");
    data.instance().clone()
}

fn see(path: &Path, id: &InstanceId) -> Directory {
    inspect(path, id.as_str(), None, false)
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().expect("temp dir");
    let id = served(dir.path()).await;
    let first = locked(&config(dir.path())).await;
    let error = refused(&config(dir.path())).await;
    assert!(
        error.contains(&std::process::id().to_string()) && error.contains("--data-dir"),
        "{error}"
    );
    assert_eq!(see(dir.path(), &id), Directory::Held);
    let another = InstanceId::from_random(1);
    assert_eq!(see(dir.path(), &another), Directory::Unknown);
    drop(first);
    assert_eq!(see(dir.path(), &id), Directory::Free);
    assert_eq!(*locked(&config(dir.path())).await.instance(), id);
}

#[tokio::test]
async fn a_directory_is_free_although_a_child_that_is_being_started_has_its_lock_file() {
    let dir = tempfile::tempdir().expect("temp dir");
    let data = locked(&config(dir.path())).await;
    let inherited = data._lock.0.try_clone().expect("a descriptor");
    drop(data);
    locked(&config(dir.path())).await;
    drop(inherited);
}

#[tokio::test]
async fn an_ephemeral_run_never_wipes_what_it_did_not_make() {
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join("thesis.tex"), "x").expect("writes");
    let ephemeral = Config {
        ephemeral: true,
        ..config(dir.path())
    };
    let error = refused(&ephemeral).await;
    assert!(error.contains("not empty"), "{error}");
    assert!(dir.path().join("thesis.tex").exists());

    let own = dir.path().join("own");
    let ephemeral = Config {
        ephemeral: true,
        ..config(&own)
    };
    // Left as by a kill: the next run takes it over, with the same instance.
    let killed = locked(&ephemeral).await;
    let id = killed.instance().clone();
    killed.recorder()().expect("written");
    drop(killed);
    fs::create_dir(own.join("store")).expect("makes");
    let again = locked(&ephemeral).await;
    assert_eq!(*again.instance(), id);
    assert!(again.record().is_some());
    assert!(!own.join("store").exists());
    again.close(&ephemeral);
    assert!(!own.exists());
}

#[tokio::test]
async fn what_is_served_for_longer_is_ephemeral_no_more() {
    let dir = tempfile::tempdir().expect("temp dir");
    let ephemeral = Config {
        ephemeral: true,
        ..config(dir.path())
    };
    // Left as by a kill.
    let id = locked(&ephemeral).await.instance().clone();
    assert!(is_ephemeral(dir.path()));
    let lasting = locked(&config(dir.path())).await;
    assert_eq!(*lasting.instance(), id);
    drop(lasting);
    assert!(!is_ephemeral(dir.path()));
    refused(&ephemeral).await;
}

#[tokio::test]
async fn a_directory_made_for_one_run_goes_when_the_start_fails() {
    let ephemeral = Config {
        ephemeral: true,
        ..config(&default_data_dir(&process_env).expect("a home"))
    };
    let data = locked(&ephemeral).await;
    let path = data.path().to_owned();
    assert!(path.join(INSTANCE).exists());
    drop(data);
    assert!(!path.exists());
}

#[tokio::test]
async fn only_the_very_directory_is_evidence() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("data");
    let id = served(&path).await;
    let holder = machine::here(&path).expect("there");
    let saw = |path: &Path, holder: Option<&Holder>| inspect(path, id.as_str(), holder, false);
    assert_eq!(saw(&path, Some(&holder)), Directory::Free);
    for other in [
        Holder {
            boot: "another".into(),
            ..holder.clone()
        },
        Holder {
            inode: holder.inode + 1,
            ..holder.clone()
        },
        Holder {
            device: holder.device + 1,
            ..holder.clone()
        },
    ] {
        assert_eq!(saw(&path, Some(&other)), Directory::Unknown, "{other:?}");
    }
    // A missing or unreadable file proves nothing.
    assert_eq!(
        saw(&dir.path().join("gone"), Some(&holder)),
        Directory::Unknown
    );
    for name in [INSTANCE, LOCK] {
        let file = path.join(name);
        let aside = dir.path().join(name);
        fs::rename(&file, &aside).expect("moves");
        std::os::unix::fs::symlink(name, &file).expect("links");
        assert_eq!(saw(&path, Some(&holder)), Directory::Unknown, "{name}");
        fs::remove_file(&file).expect("removed");
        fs::rename(&aside, &file).expect("moves");
    }
    // A directory of an older `ignite` has no record; beside the engine its path is as good.
    fs::remove_file(path.join(HOLDER)).expect("removed");
    assert_eq!(saw(&path, None), Directory::Unknown);
    assert_eq!(inspect(&path, id.as_str(), None, true), Directory::Free);
}

#[tokio::test]
async fn a_damaged_identity_is_found_again_and_never_made_anew() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path();
    let id = served(path).await;
    let name = path.join(INSTANCE);
    for damage in [Some(""), Some("00000000000"), Some("\u{0}\u{0}"), None] {
        match damage {
            Some(text) => fs::write(&name, text).expect("written"),
            None => fs::remove_file(&name).expect("removed"),
        }
        assert_eq!(*locked(&config(path)).await.instance(), id, "{damage:?}");
        assert_eq!(
            fs::read_to_string(&name).expect("restored").trim(),
            id.as_str()
        );
    }
    // From the copy beside the store.
    fs::create_dir(path.join("store")).expect("made");
    fs::write(path.join("store/db"), "").expect("written");
    locked(&config(path)).await.back_identity_up();
    fs::remove_file(path.join(HOLDER)).expect("removed");
    fs::write(&name, "").expect("written");
    assert_eq!(*locked(&config(path)).await.instance(), id);
    // From the labels on the engine, which does not respond here.
    fs::remove_file(path.join("store").join(INSTANCE)).expect("removed");
    fs::write(&name, "").expect("written");
    let error = refused(&config(path)).await;
    assert!(
        error.contains("restore the file") && !error.contains("prune"),
        "{error}"
    );
    assert_eq!(fs::read_to_string(&name).expect("as it was"), "");
}

#[tokio::test]
async fn a_copy_beside_its_original_is_told_and_gets_an_identity_of_its_own_on_request() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (path, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let id = served(&path).await;
    let copied = Command::new("cp").arg("-a").args([&path, &copy]).status();
    assert!(copied.expect("it runs").success());
    let error = refused(&config(&copy)).await;
    let original = path.canonicalize().expect("there").display().to_string();
    assert!(
        error.contains(&original) && error.contains("--new-instance"),
        "{error}"
    );
    // The flag does nothing to the original, and works once on the copy.
    let fresh = |path: &Path| Config {
        new_instance: true,
        ..config(path)
    };
    assert_eq!(*locked(&fresh(&path)).await.instance(), id);
    let renewed = locked(&fresh(&copy)).await;
    let new = renewed.instance().clone();
    assert_ne!(new, id);
    renewed.recorder()().expect("written");
    drop(renewed);
    assert_eq!(*locked(&fresh(&copy)).await.instance(), new);
    assert_eq!(served(&copy).await, new);
    assert_eq!(served(&path).await, id);
    // A moved directory is the same, and so is a copy whose original is gone.
    let moved = dir.path().join("moved");
    fs::rename(&path, &moved).expect("moves");
    assert_eq!(served(&moved).await, id);
    let restored = dir.path().join("restored");
    let copied = Command::new("cp")
        .arg("-a")
        .args([&moved, &restored])
        .status();
    assert!(copied.expect("it runs").success());
    fs::remove_dir_all(&moved).expect("removed");
    assert_eq!(served(&restored).await, id);
}

#[tokio::test]
async fn others_are_kept_out_and_a_directory_of_other_things_is_not_changed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("data");
    fs::create_dir(&path).expect("made");
    let open_up = || fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("set");
    let mode = || fs::metadata(&path).expect("there").mode() & 0o777;
    // A new directory, and one whose mode was widened since.
    for _ in 0..2 {
        open_up();
        served(&path).await;
        assert_eq!(mode(), 0o700);
    }
    let other = dir.path().join("other");
    fs::rename(&path, &other).expect("moves");
    fs::create_dir(&path).expect("made");
    fs::write(path.join("thesis.tex"), "x").expect("written");
    open_up();
    let error = refused(&config(&path)).await;
    assert!(
        error.contains("mode 755") && error.contains("chmod 700"),
        "{error}"
    );
    assert_eq!(mode(), 0o755);
    assert_eq!(fs::read_dir(&path).expect("lists").count(), 1);
    // Owned by another user, which only root can arrange here.
    if geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(1), None).expect("changed");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("set");
        let error = refused(&config(&path)).await;
        assert!(
            error.contains("user 1") && error.contains("chown"),
            "{error}"
        );
    }
}
