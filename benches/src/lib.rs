//! RAIN against itself and against others: benches that are no part of a test run.
