//! The command `rain` as the tests run it: built with them, so that it is never an old one.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    rain::main_entry()
}
