//! Benchmarks of RAIN, alone and beside other software. A test run does not include them.
