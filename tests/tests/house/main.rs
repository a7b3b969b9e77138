//! The order of the house, held: which part may use which, and how long a file or a line may be.

mod circles;
mod imports;
mod ladder;
mod size;
