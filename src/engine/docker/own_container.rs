//! Whether this process runs in a container of its engine, and in which.
//!
//! The addresses of apps' containers then belong to another network namespace, so this container
//! has to join the instance's network to reach them.

use std::{fs, sync::LazyLock};

use bollard::models::ContainerInspectResponse;

use super::{
    ContainerId, Error,
    client::{Client, has_status},
};

/// Digits of a full id.
const ID_DIGITS: usize = 64;
/// The folders in which engines keep the files of one container (its hostname, its resolv.conf),
/// which they mount into it: Docker's and Podman's.
const FOLDERS: [&str; 2] = ["/containers/", "/overlay-containers/"];

/// The id that this process's mounts show, if it is in a container. They do not change.
static BY_MOUNTS: LazyLock<Option<ContainerId>> = LazyLock::new(|| {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    id_in(&mounts).map(|id| ContainerId(id.to_owned()))
});

/// The container of this process, if it is one of this engine with a network namespace of its own.
///
/// # Errors
/// The engine's.
pub(super) async fn find(client: &Client) -> Result<Option<ContainerId>, Error> {
    let Some(id) = &*BY_MOUNTS else {
        return Ok(None);
    };
    let found = client
        .run("find this server's container", |docker| async move {
            docker.inspect_container(&id.0, None).await
        })
        .await;
    match found {
        Ok(found) => Ok(has_own_network(&found).then(|| id.clone())),
        // A container of another engine.
        Err(error) if has_status(&error, 404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a container has a network of its own, and not the host's or another container's.
fn has_own_network(container: &ContainerInspectResponse) -> bool {
    let config = container.host_config.as_ref();
    let mode = config.and_then(|c| c.network_mode.as_deref());
    !mode.is_some_and(|mode| mode == "host" || mode.starts_with("container:"))
}

/// The id in the source of a mount that an engine makes in each container.
fn id_in(mountinfo: &str) -> Option<&str> {
    let mut roots = mountinfo.lines().filter_map(|l| l.split(' ').nth(3));
    roots.find_map(|root| FOLDERS.iter().find_map(|folder| id_below(folder, root)))
}

fn id_below<'a>(folder: &str, root: &'a str) -> Option<&'a str> {
    let (_, after) = root.split_once(folder)?;
    let id = after.split('/').next()?;
    (id.len() == ID_DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_mounts_show_the_container() {
        let id = "0123456789abcdef".repeat(4);
        let docker = format!(
            "36 25 0:32 / /sys ro - sysfs sysfs ro\n\
             512 480 8:1 /var/lib/docker/containers/{id}/resolv.conf /etc/resolv.conf rw - ext4 /dev/sda1 rw\n"
        );
        assert_eq!(id_in(&docker), Some(&*id));
        let podman = format!(
            "9 8 0:22 /containers/storage/overlay-containers/{id}/userdata/hostname /etc/hostname rw - tmpfs tmpfs rw\n"
        );
        assert_eq!(id_in(&podman), Some(&*id));
        assert_eq!(id_in("25 1 8:1 / / rw - ext4 /dev/sda1 rw\n"), None);
        assert_eq!(
            id_in("1 2 8:1 /srv/containers/web/etc /etc rw - ext4 /dev/sda1 rw\n"),
            None
        );
    }
}
