//! The `ignite` binary: all of it is in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Many small buffers are allocated and freed on several threads, and glibc's allocator is slow
/// where the binary is linked statically.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    ignite::cli::main()
}
