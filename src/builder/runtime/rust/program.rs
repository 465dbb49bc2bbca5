//! The program around a handler that is in a library.

fn main() -> std::process::ExitCode {
    ::LIBRARY::main()
}
