//! The program `storaged`: flags to a node.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    storaged::main_from(std::env::args_os())
}
