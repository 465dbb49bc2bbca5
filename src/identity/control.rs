//! How a change of keys or accounts reaches a server that runs: by a notification that it confirms.
//!
//! The files are the truth, and no notification is needed: a server reads them when it starts, and
//! looks for changes from time to time. But an operator who revokes an account wants its tokens refused
//! once the command has ended. So a server listens on a socket in the folder of keys, which only its
//! owner may enter; a connection to it has the files read again, and is answered with the outcome.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::UnixListener};

use super::{Error, folder};

const SOCKET: &str = "control.sock";
/// The answer to a change that was taken.
const TAKEN: &str = "ok";
/// Longest wait for the answer of a server.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 4096;

/// A path to the socket that is short, as the names of sockets must be, however deep the folder is.
fn short(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(SOCKET)
}

/// Has a server on this data directory, if one runs, read keys and accounts again.
///
/// # Errors
/// When it cannot use them, or does not answer.
pub fn notify(data_dir: &Path) -> Result<(), Error> {
    let refused = |why: String| Error::NotTaken(why);
    let folder = File::open(folder::path(data_dir)).map_err(|e| refused(e.to_string()))?;
    let mut stream = match UnixStream::connect(short(&folder)) {
        Ok(stream) => stream,
        // No server, or one that was killed and has left its socket.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(());
        }
        Err(e) => return Err(refused(e.to_string())),
    };
    let mut answer = String::new();
    let read = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| (&mut stream).take(MAX_ANSWER).read_to_string(&mut answer));
    match read {
        Ok(_) if answer == TAKEN => Ok(()),
        // A server that ends reads the files when it starts again.
        Ok(0) => Ok(()),
        Ok(_) => Err(refused(answer)),
        Err(e) => Err(refused(e.to_string())),
    }
}

/// Listens for changes.
///
/// # Errors
/// The file system's.
pub(super) fn listen(data_dir: &Path) -> io::Result<UnixListener> {
    let path = folder::path(data_dir);
    let folder = File::open(&path)?;
    // One that a killed server left. This one has the lock of the data directory.
    match fs::remove_file(path.join(SOCKET)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    UnixListener::bind(short(&folder))
}

/// Answers connections with the outcome of `reload`, one after the other.
pub(super) async fn serve<F>(listener: UnixListener, mut reload: impl FnMut() -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "A command on this machine could not be answered");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = match reload().await {
            Ok(()) => TAKEN.to_owned(),
            Err(error) => error.to_string(),
        };
        let written = stream.write_all(answer.as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), written).await;
    }
}
