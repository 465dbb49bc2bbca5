//! The probe's image, built once per test process.

use ignite_kit::image::{self, Entry, Variant};
use tokio::sync::OnceCell;

static NON_ROOT: OnceCell<String> = OnceCell::const_new();
static ROOT: OnceCell<String> = OnceCell::const_new();

/// The reference of the probe's image that runs as user 65532.
pub(crate) async fn image() -> String {
    NON_ROOT
        .get_or_init(|| build(Variant::NonRoot))
        .await
        .clone()
}

/// The reference of the probe's image that runs as root.
pub(crate) async fn root_image() -> String {
    ROOT.get_or_init(|| build(Variant::Root)).await.clone()
}

/// The reference of an image that is the probe with more in its environment: another version.
pub(crate) async fn image_with(env: &[(&str, &str)]) -> String {
    image::with_env(&super::engine::docker().await, &image().await, env)
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

/// The reference of an image that is the probe with more files and more in its environment.
pub(crate) async fn image_with_files(files: &[(&str, &str)], env: &[(&str, &str)]) -> String {
    image::with_files(&super::engine::docker().await, &image().await, files, env)
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

/// The reference of an image that is the probe under another name.
pub(crate) async fn image_as(program: &str) -> String {
    image::with_program(&super::engine::docker().await, &image().await, program)
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

/// The reference of an image of the probe's program that these lines of a Dockerfile describe.
pub(crate) async fn image_described(lines: &str) -> String {
    image::described(&super::engine::docker().await, &image().await, lines)
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

/// The reference of an image that is the probe with a tree of files and links in one layer.
pub(crate) async fn image_with_tree(tree: &[(String, Entry<'_>)], env: &[(&str, &str)]) -> String {
    image::with_tree(&super::engine::docker().await, &image().await, tree, env)
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}

async fn build(variant: Variant) -> String {
    let docker = ignite_kit::engine()
        .await
        .unwrap_or_else(|e| panic!("{e:#}"));
    image::probe(&docker, variant)
        .await
        .unwrap_or_else(|e| panic!("{e:#}"))
}
