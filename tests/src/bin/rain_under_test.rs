//! The command `rain` for the tests. Cargo builds it with them, so they never run an old build.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rain::main_entry()
}
